"""A source of captioned images in a folder."""

from collections.abc import Sequence
from concurrent import futures
import dataclasses
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from siglip_jax.data import captions
from siglip_jax.data import folder_files
from siglip_jax.data import opening
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables import metadata
from siglip_jax.errors import UserError

IMAGES = folder_files.IMAGES
check_local = folder_files.check_local
_CHUNK = 4096  # examples
_THREADS = 16  # wait for a network file system together


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
      raise ImageError(e.strerror or str(e)) from None

  def key(self, index: int) -> str:
    """Returns the image's path."""
    return str(self.folder / self.entries[index][0])

  def values(self, key: str) -> list[Any] | None:
    """Returns the captions for the key "text", opening no file; else None."""
    return [text for _, text in self.entries] if key == "text" else None

  def image_ids(self) -> list[str]:
    """Returns each example's image path, which repeats with its image."""
    return [
        os.path.normpath(path) if "./" in path or "//" in path else path
        for path, _ in self.entries
    ]

  def digest(self) -> str:
    """Returns a digest of all paths and captions in their order."""
    digest = hashlib.sha256()
    for start in range(0, len(self), _CHUNK):
      part = self.entries[start : start + _CHUNK]
      words = list(itertools.chain.from_iterable(part))
      digest.update(np.fromiter(map(len, words), "<i8").tobytes())
      digest.update("".join(words).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]


def folder_source(path: str | Path, split: str = "all") -> FolderSource:
  """Returns a source of the captioned images in a folder.

  Captions are in a .txt beside each image, in a captions.jsonl that names the
  images, or in a metadata.jsonl or metadata.csv with `file_name` and `text`.

  Args:
    path: the folder; its subfolders are read, too, and links to folders
      elsewhere.
    split: "all", "train" or "validation". A hash of an image's path puts a
      twentieth of the images in validation.

  Raises:
    UserError: when the folder does not exist or has no images, an image has no
      caption, or a caption file is not UTF-8 or has another format.
  """
  folder = folder_files.existing(path)
  if split not in ("all", "train", "validation"):
    raise UserError(
        f"The split of a folder is all, train or validation; got {split!r}."
    )
  listing = _listing(folder)
  if not listing.entries:
    raise UserError(
        f"The folder {folder} is empty: expected images"
        f" ({', '.join(IMAGES)}) with a .txt beside each, or a"
        f" captions.jsonl.{folder_files.hint(folder)}"
    )
  entries = listing.part(split)
  if not entries:
    raise UserError(
        f"The folder {folder} has no image in the split {split}: a"
        " twentieth goes to validation by a hash of the path. Add images,"
        " or use split='all'."
    )
  return FolderSource(folder, entries)


def _listing(folder: Path) -> captions.Listing:
  path = folder / captions.NAME
  # A link to nothing does not exist, and must not pass for no file.
  if os.path.lexists(path):
    return captions.read(path)
  table = folder_files.metadata(folder)
  if table is not None:
    return metadata.read(table)
  images = folder_files.images_with_txt(folder)
  texts: list[str] = []
  what = f"Reading captions of {folder}, images"
  parts = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for part in opening.track(parts, what, total=len(images), size=len):
      paths = [folder / folder_files.caption_of(image) for image in part]
      texts += pool.map(_caption, paths)
  return captions.Listing(tuple(zip(images, texts, strict=True)))


def _caption(path: Path) -> str:
  try:
    data = path.read_bytes()
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror or e}.") from None
  return captions.utf8(str(path), data).strip()
