"""The manifest of an index: its shards, and how many samples they have.

It says how many samples of each layout a shard has, in training and in
validation, so that a source knows its length without the shards' tables.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
from typing import Any
from urllib.parse import quote

from jaxtyping import Int64
import numpy as np

from siglip_jax.data import remote
from siglip_jax.data.tars import table
from siglip_jax.data.tars.table import Layout
from siglip_jax.errors import UserError

NAME = "manifest.json"
FORMAT = "siglip_jax tar index"
VERSION = 1
MAKE = "python -m siglip_jax.data.index"
SPLITS = ("all", "train", "validation")
_PROBLEMS = 1000  # that are named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """The shards of an index.

  Attributes:
    names: paths of the shards within the data set.
    sizes: their sizes in bytes.
    etags: their etags; "" on a file system.
    digests: a digest of each shard's table and headers.
    samples: numbers of samples that have an image.
    layouts: the layouts of all samples.
    groups: rows of shard, layout, and numbers of samples in training and in
      validation.
    image: suffixes of images.
    columns: names of the columns -> number of values.
    suffixes: suffix -> number of members, of all members.
    counts: oddity -> number of members or samples.
    problems: shard, offset and description of damages; the first thousand.
  """

  names: Sequence[str]
  sizes: Int64[np.ndarray, " S"]
  etags: Sequence[str]
  digests: Sequence[str]
  samples: Int64[np.ndarray, " S"]
  layouts: Sequence[Layout]
  groups: Int64[np.ndarray, "G 4"]
  image: Sequence[str]
  columns: Mapping[str, int]
  suffixes: Mapping[str, int]
  counts: Mapping[str, int]
  problems: Sequence[tuple[str, int, str]]

  def lengths(self, layouts: set[Layout], split: str) -> np.ndarray:
    """Returns how many samples of some layouts each shard has in a split."""
    chosen = np.array([layout in layouts for layout in self.layouts], bool)
    groups = self.groups[chosen[self.groups[:, 1]]]
    numbers = groups[:, 2] * (split != "validation")
    numbers = numbers + groups[:, 3] * (split != "train")
    lengths = np.zeros(len(self.names), np.int64)
    np.add.at(lengths, groups[:, 0], numbers)
    return lengths

  def of_layout(self) -> dict[Layout, int]:
    """Returns the number of samples of each layout."""
    totals = np.zeros(len(self.layouts), np.int64)
    np.add.at(totals, self.groups[:, 1], self.groups[:, 2] + self.groups[:, 3])
    return dict(zip(self.layouts, totals.tolist(), strict=True))


def file_name(shard: str) -> str:
  """Returns the name of a shard's file in the folder of the index."""
  return quote(shard, safe="") + ".idx"


def joined(folder: str, name: str) -> str:
  """Returns the path of a file in a folder, local or remote."""
  return f"{folder.rstrip('/')}/{name}" if folder != "/" else f"/{name}"


def within(paths: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the deepest folder that holds all files, and their paths in it."""
  folders = [path.split("/")[:-1] for path in paths]
  base = folders[0] if folders else []
  for parts in folders:
    shared = 0
    while shared < min(len(base), len(parts)) and base[shared] == parts[shared]:
      shared += 1
    base = base[:shared]
  depth = len(base)
  return "/".join(base), ["/".join(p.split("/")[depth:]) for p in paths]


def of_headers(
    contents: Sequence[tuple[dict[str, Any], str]], image: Sequence[str]
) -> Manifest:
  """Returns the manifest of shards by their files' headers and digests."""
  layouts: dict[Layout, int] = {}
  groups, problems = [], []
  columns: dict[str, int] = {}
  suffixes: dict[str, int] = {}
  counts: dict[str, int] = {}
  headers = [header for header, _ in contents]
  for row, header in enumerate(headers):
    for layout, train, validation in header["groups"]:
      parts = tuple(header["layouts"][layout])
      number = layouts.setdefault(parts, len(layouts))
      groups.append((row, number, train, validation))
    for words in header["columns"]:
      _add(columns, {words["name"]: words["filled"]})
    _add(suffixes, header["suffixes"])
    _add(counts, header["counts"])
    if header["problem"]:
      problems.append((header["shard"], 0, header["problem"]))
    problems += [(header["shard"], at, text) for at, text in header["damages"]]
  return Manifest(
      names=[header["shard"] for header in headers],
      sizes=np.array([header["bytes"] for header in headers], np.int64),
      etags=[header["etag"] for header in headers],
      digests=[digest for _, digest in contents],
      samples=np.array([header["samples"] for header in headers], np.int64),
      layouts=list(layouts),
      groups=np.array(groups, np.int64).reshape(-1, 4),
      image=tuple(image),
      columns=columns,
      suffixes=suffixes,
      counts=counts,
      problems=problems[:_PROBLEMS],
  )


def _add(totals: dict[str, int], numbers: Mapping[str, int]) -> None:
  for name, number in numbers.items():
    totals[name] = totals.get(name, 0) + number


def digest(header: Mapping[str, Any], content: bytes) -> str:
  """Returns the digest of a shard's file, which its columns do not change."""
  parts = table.digest_of(content) + str(header["headers"]).encode()
  return hashlib.sha256(parts).hexdigest()[:16]


def encode(manifest: Manifest) -> bytes:
  """Returns the file of a manifest."""
  words = {"format": FORMAT, "version": VERSION}
  for field in dataclasses.fields(manifest):
    value = getattr(manifest, field.name)
    words[field.name] = value.tolist() if hasattr(value, "tolist") else value
  words["digest"] = _sum(words)
  return json.dumps(words, separators=(",", ":")).encode()


def read(folder: str) -> Manifest | None:
  """Returns the manifest in a folder; None if there is none.

  Raises:
    UserError: it cannot be read, or another program or version wrote it.
  """
  path = joined(folder, NAME)
  if not remote.exists(path):
    return None
  return decode(remote.read_small(path), path)


def decode(content: bytes, path: str) -> Manifest:
  """Returns the manifest in a file.

  Raises:
    UserError: it is damaged, or another program or version wrote it.
  """
  try:
    words = json.loads(content)
    form, version = words["format"], words["version"]
    if form != FORMAT or version != VERSION:
      raise UserError(
          f"{path} must be of the format {FORMAT!r}, version {VERSION}; it is"
          f" {form!r}, version {version!r}. Make the index again: {MAKE}."
      )
    if words.pop("digest") != _sum(words):
      raise ValueError("it was changed after it was written")
    del words["format"], words["version"]
    for name in ("sizes", "samples"):
      words[name] = np.array(words[name], np.int64)
    words["groups"] = np.array(words["groups"], np.int64).reshape(-1, 4)
    for name in ("layouts", "problems"):
      words[name] = [tuple(row) for row in words[name]]
    words["image"] = tuple(words["image"])
    return Manifest(**words)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    if isinstance(e, UserError):
      raise
    raise UserError(
        f"{path} must be the manifest of an index; it is damaged or another"
        f" file ({e}). Make the index again: {MAKE}."
    ) from None


def _sum(words: Mapping[str, Any]) -> str:
  plain = json.dumps(words, separators=(",", ":")).encode()
  return hashlib.sha256(plain).hexdigest()[:16]
