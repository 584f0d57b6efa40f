"""The file captions.jsonl of a folder: one image and its caption a line.

A million lines are read in seconds: images are looked up in listings of their
directories, not one by one, and the evaluations of a run share what training
has read.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from pathlib import Path
import stat
import time

from siglip_jax.data import opening
from siglip_jax.data.tables import places
from siglip_jax.errors import UserError

NAME = "captions.jsonl"
_CHUNK = 1 << 22  # bytes
# A file that was changed just now may change again within the resolution of
# its time stamp, so what it holds is not kept.
_SETTLED = 2.0  # seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
  """The images of a folder, as relative paths, and their captions."""

  entries: Sequence[tuple[str, str]]

  def part(self, split: str) -> Sequence[tuple[str, str]]:
    """Returns the entries of "all", "train" or "validation"."""
    if split == "all":
      return self.entries
    chosen = self._validation
    if split == "train":
      chosen = [not v for v in chosen]
    return tuple(itertools.compress(self.entries, chosen))

  @functools.cached_property
  def _validation(self) -> list[bool]:
    return [in_validation(path) for path, _ in self.entries]


def read(path: Path) -> Listing:
  """Returns the listing that captions.jsonl gives, all of its images found.

  Raises:
    UserError: when the file cannot be read, a line has another format, or an
      image is missing or outside the folder.
  """
  try:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
      raise UserError(f"{path} must be a file; it is not. Remove or rename it.")
    stamp = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    settled = time.time() - info.st_mtime > _SETTLED
    parse = _parsed if settled else _parsed.__wrapped__
    listing = parse(path, path.absolute(), stamp)
  except OSError as e:
    raise UserError(
        f"{path} cannot be read: {e.strerror or e}. Repair it, or remove it if"
        " there is a .txt beside each image."
    ) from None
  _check_images(path, listing.entries)
  return listing


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, absolute: Path, stamp: tuple) -> Listing:
  """Parses a file, once until it changes.

  Args:
    path: the file.
    absolute: the same; it tells apart relative paths of two working folders.
    stamp: changes with the file.
  """
  del absolute, stamp
  entries = []
  for chunk in opening.track(_chunks(path), f"Reading {path}, lines", size=len):
    entries += _entries(path, chunk)
  return Listing(tuple(entries))


@dataclasses.dataclass(frozen=True)
class _Chunk:
  """Consecutive lines, of which the first has the number `first`, from 1."""

  first: int
  lines: Sequence[bytes]

  def __len__(self) -> int:
    return len(self.lines)


def _chunks(path: Path) -> Iterator[_Chunk]:
  first = 1
  with path.open("rb") as file:
    while data := file.read(_CHUNK):
      lines = (data + file.readline()).splitlines()
      yield _Chunk(first, lines)
      first += len(lines)


_raw_decode = json.JSONDecoder().raw_decode


def _entries(path: Path, chunk: _Chunk) -> list[tuple[str, str]]:
  entries = []
  for number, data in enumerate(chunk.lines, chunk.first):
    if not data.strip():
      continue
    line = utf8(f"{path}, line {number}", data).strip(" \t\r\n")
    try:
      entry, end = _raw_decode(line)
      image, text = entry["image"], entry["text"]
      valid = end == len(line) and isinstance(image, str)
      valid = valid and isinstance(text, str) and "\0" not in image
      if "\\u" in line:  # a lone surrogate, which UTF-8 cannot encode
        (image + text).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
      valid = False
    if not valid:
      raise UserError(
          f'{path}, line {number} must be {{"image": "a/b.png", "text":'
          f' "..."}}; got {data[:80]!r}.'
      )
    entries.append((image, text))
  return entries


def utf8(location: str, data: bytes) -> str:
  """Decodes captions, without a byte order mark.

  Raises:
    UserError: when they are not UTF-8; it names the location.
  """
  try:
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    raise UserError(
        f"Captions must be UTF-8; {location} is not, at byte {e.start}. Convert"
        " it, for example with iconv."
    ) from None


def _check_images(path: Path, entries: Sequence[tuple[str, str]]) -> None:
  """Raises UserError unless each image is a file in the folder."""
  images = (image for image, _ in entries)
  what = f"Looking for the images of {path}, directories"
  missing, outside = places.look_up(path.parent, images, what, inside=True)
  if not missing and not outside:
    return
  wrong = missing | outside
  index = next(i for i, (image, _) in enumerate(entries) if image in wrong)
  image = entries[index][0]
  more = ""
  if len(wrong) > 1:
    more = f" In all, {len(wrong)} images are missing or outside the folder."
  reason = f"there is no image {image[:200]!r}"
  if image in outside:
    reason = f"{image[:200]!r} is outside the folder"
  raise UserError(f"{path}, line {_line(path, index)}: {reason}.{more}")


def _line(path: Path, index: int) -> int:
  """Returns the number of the line that holds the entry with an index."""
  for chunk in _chunks(path):
    for number, line in enumerate(chunk.lines, chunk.first):
      index -= bool(line.strip())
      if index < 0:
        return number
  return 0


def in_validation(path: str) -> bool:
  """Whether a hash of an image's path puts it in validation: a twentieth."""
  return hashlib.sha256(os.fsencode(path)).digest()[0] < 256 / 20
