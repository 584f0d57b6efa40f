"""A source of captioned images in a folder."""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """A source of the images in a folder and their captions."""

  folder: Path
  entries: Sequence[tuple[str, str]]  # (relative path, caption)

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, text = self.entries[index]
    try:
      return {"image": (self.folder / path).read_bytes(), "text": text}
    except OSError as e:
      raise ImageError(e.strerror) from None

  def key(self, index: int) -> str:
    """Returns the image's path."""
    return str(self.folder / self.entries[index][0])


def folder_source(path: str | Path, split: str = "all") -> FolderSource:
  """Returns a source of the captioned images in a folder.

  Captions are in a .txt beside each image, or in a captions.jsonl that names
  the images.

  Args:
    path: the folder; its subfolders are read, too.
    split: "all", "train" or "validation". A hash of an image's path puts a
      twentieth of the images in validation.

  Raises:
    UserError: when the folder does not exist or has no images, an image has no
      caption, or a caption file is not UTF-8 or has another format.
  """
  folder = Path(path).expanduser()
  if split not in ("all", "train", "validation"):
    raise UserError(
        f"The split of a folder is all, train or validation; got {split!r}."
    )
  if not folder.is_dir():
    raise UserError(f"There is no folder {folder}: give a folder of images.")
  captions = folder / "captions.jsonl"
  entries = _from_jsonl(captions) if captions.exists() else _from_txt(folder)
  if not entries:
    raise UserError(
        f"The folder {folder} is empty: expected images"
        f" ({', '.join(IMAGES)}) with a .txt beside each, or a"
        " captions.jsonl."
    )
  if split != "all":
    validation = split == "validation"
    entries = [e for e in entries if _in_validation(e[0]) == validation]
    if not entries:
      raise UserError(
          f"The folder {folder} has no image in the split {split}: a"
          " twentieth goes to validation by a hash of the path. Add images,"
          " or use split='all'."
      )
  return FolderSource(folder, tuple(entries))


def _from_txt(folder: Path) -> list[tuple[str, str]]:
  entries = []
  for path in sorted(folder.rglob("*")):
    if path.suffix.lower() in IMAGES and path.is_file():
      caption = path.with_suffix(".txt")
      if not caption.is_file():
        raise UserError(
            f"{path} has no caption: expected {caption.name} beside it."
        )
      text = _utf8(caption, caption.read_bytes()).strip()
      entries.append((path.relative_to(folder).as_posix(), text))
  return entries


def _from_jsonl(captions: Path) -> list[tuple[str, str]]:
  entries = []
  for number, line in enumerate(captions.read_bytes().splitlines(), 1):
    location = f"{captions}, line {number}"
    if not line.strip():
      continue
    decoded = _utf8(location, line)
    try:
      entry = json.loads(decoded)
      path, text = entry["image"], entry["text"]
      # JSON may hold lone surrogates, which UTF-8 cannot encode.
      valid = isinstance(path, str) and isinstance(text, str)
      valid = valid and "\0" not in path and bool((path + text).encode())
    except (ValueError, KeyError, TypeError, RecursionError):
      valid = False
    if not valid:
      raise UserError(
          f'{location} must be {{"image": "a/b.png", "text": "..."}}; got'
          f" {line[:80]!r}."
      )
    full = (captions.parent / path).resolve()
    if not full.is_relative_to(captions.parent.resolve()):
      raise UserError(f"{location}: {path!r} is outside the folder.")
    if not full.is_file():
      raise UserError(f"{location}: there is no image {path!r}.")
    entries.append((path, text))
  return entries


def _utf8(location, data: bytes) -> str:
  try:
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    raise UserError(
        f"Captions must be UTF-8; {location} is not, at byte {e.start}. Convert"
        " it, for example with iconv."
    ) from None


def _in_validation(path: str) -> bool:
  return hashlib.sha256(os.fsencode(path)).digest()[0] < 256 / 20
