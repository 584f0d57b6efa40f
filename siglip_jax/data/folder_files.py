"""The files in a folder of images, and hints on what is not read."""

from collections.abc import Iterator
import os
from pathlib import Path

from siglip_jax.data import opening
from siglip_jax.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_TABLES = (".csv", ".tsv", ".parquet", ".json", ".jsonl")
_LINE = '{"image": "a/b.png", "text": "..."}'
_FEW = 10_000  # files that are looked at for a hint


def images_with_txt(folder: Path) -> list[str]:
  """Returns the relative paths of all images, which must have captions beside.

  They are in the order of their paths' parts.

  Raises:
    UserError: when an image has no .txt beside it or is a broken link, or a
      directory cannot be read or leads out of the folder.
  """
  images, captions = [], set()
  what = f"Listing {folder}, files"
  for path, entry in opening.track(_walk(folder), what):
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".txt":
      captions.add(path)
    elif suffix not in IMAGES and suffix:
      continue
    elif entry.is_symlink() and not os.path.exists(entry.path):
      # An image, or a folder of images on a disk that is not mounted.
      raise UserError(
          f"{folder / path} is a link to nothing. Repair or remove it."
      )
    elif suffix and (entry.is_symlink() or entry.is_file()):
      images.append(path)
  images.sort(key=lambda path: path.split("/"))
  # Some file systems take a name in capitals for the same.
  bare = [image for image in images if caption_of(image) not in captions]
  if bare and not all((folder / caption_of(b)).is_file() for b in bare):
    raise UserError(
        f"{folder / bare[0]} has no caption: expected"
        f" {os.path.basename(caption_of(bare[0]))} beside it; {len(bare)} of"
        f" {len(images)} images have none.{hint(folder)}"
    )
  return images


def caption_of(image: str) -> str:
  """Returns the path of the .txt beside an image."""
  return os.path.splitext(image)[0] + ".txt"


def hint(folder: Path) -> str:
  """Returns a sentence, after a space, on files that are not read; or ""."""
  paths = [path for path, _ in zip(_names(folder), range(_FEW), strict=False)]
  suffixes = {path: os.path.splitext(path)[1].lower() for path in paths}
  for path, suffix in suffixes.items():
    if suffix == ".tar":
      return f" It holds {path}: unpack .tar files into a folder."
  for path in paths:
    if os.path.basename(path) == "metadata.jsonl":
      return (
          f' It holds {path}: `sed \'s/"file_name"/"image"/\' metadata.jsonl'
          " >captions.jsonl` beside it makes a captions.jsonl, if its captions"
          f' are called "text". Give that folder.'
      )
  for path, suffix in suffixes.items():
    if suffix in _TABLES and path != "captions.jsonl":
      return (
          f" It holds {path}: write its captions to a captions.jsonl, a line"
          f" {_LINE} for each."
      )
  images = [path for path, suffix in suffixes.items() if suffix in IMAGES]
  classes = sorted({os.path.dirname(path) for path in images})
  if images and "" not in classes and ".txt" not in suffixes.values():
    return (
        f" Its images lie in folders by name ({', '.join(classes[:3])}): if"
        " these are classes, write a captions.jsonl with the class as text, a"
        f" line {_LINE} for each image."
    )
  return ""


def _names(folder: Path) -> Iterator[str]:
  return (path for path, _ in _walk(folder))


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry]]:
  """Yields all files below a folder, with relative paths.

  Links to folders are not followed: what is inside is found anyway.

  Raises:
    UserError: when a link leads out of the folder, or a directory cannot be
      read.
  """
  root = os.path.realpath(folder)
  heads = [""]
  while heads:
    head = heads.pop()
    for entry in _entries(folder / head):
      # A link in a circle is an error to DirEntry.is_dir, but not to isdir.
      link = entry.is_symlink()
      if not (os.path.isdir(entry.path) if link else entry.is_dir()):
        yield head + entry.name, entry
      elif not link:
        heads.append(f"{head}{entry.name}/")
      elif not inside(os.path.realpath(entry.path), root):
        raise UserError(
            f"{entry.path} is a link to a folder outside {folder}, which is not"
            " followed. Move or mount that folder here, or remove the link."
        )


def _entries(folder: Path) -> list[os.DirEntry]:
  try:
    with os.scandir(folder) as listing:
      return sorted(listing, key=lambda entry: entry.name)
  except OSError as e:
    if folder.name == "lost+found":  # of every ext4 file system, for root
      return []
    raise UserError(f"{folder} cannot be read: {e.strerror or e}.") from None


def inside(path: str, root: str) -> bool:
  """Whether a path lies in `root`; both must be without links."""
  return path == root or path.startswith(os.path.join(root, ""))
