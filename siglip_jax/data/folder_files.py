"""The files in a folder of images, and hints on what is not read.

A file is an image if its suffix is in `IMAGES`; or if its suffix says nothing,
it begins as images do, and it has a caption or lies in the folder of a class.
Decoding goes by the content alone: a PNG may be called .jpg.
"""

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import os
from pathlib import Path
import stat
from typing import NamedTuple

from siglip_jax import files
from siglip_jax.data import opening
from siglip_jax.errors import UserError

IMAGES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff"),
)
_DATA = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".npy", ".md")
_TABLES = (".csv", ".tsv", ".jsonl")
# Suffix of files that are read by themselves -> the argument that takes them.
_KEYS = {".tar": "tars", ".parquet": "parquet"} | dict.fromkeys(
    _TABLES, "table"
)
_METADATA = ("metadata.jsonl", "metadata.csv")
_LINE = '{"image": "a/b.png", "text": "..."}'
_FEW = 10_000  # files that are looked at for a hint
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM"),
    *(b"II*\0", b"MM\0*"),
)


def check_local(path: str | os.PathLike) -> None:
  """Raises UserError if the path of a folder of data is a URL."""
  if files.is_remote(path):
    raise UserError(
        f"Data are read from a folder of this machine; got {path}. Mount the"
        " bucket, or copy the data, and give that folder. Shards are read from"
        " buckets as they are: `tars` or `parquet`."
    )


def existing(path: str | os.PathLike) -> Path:
  """Returns the path of a folder.

  Raises:
    UserError: there is no such folder.
  """
  check_local(path)
  folder = Path(os.path.expanduser(path))
  try:
    is_folder = stat.S_ISDIR(folder.stat().st_mode) and str(path) != ""
  except (FileNotFoundError, NotADirectoryError):
    is_folder = None
  except (OSError, ValueError) as e:
    reason = getattr(e, "strerror", None) or e
    raise UserError(f"The folder {folder} cannot be read: {reason}.") from None
  if is_folder:
    return folder
  if is_folder is None or not str(path):
    raise UserError(
        f"There is no folder {folder if str(path) else repr(path)}: give a"
        " folder of images."
    )
  key = _KEYS.get(folder.suffix.lower())
  raise UserError(
      f"{folder} is a file: give"
      + (
          f" it as {key}={folder} instead of as path."
          if key
          else " the folder of images that it belongs to."
      )
  )


def images(folder: Path) -> list[str]:
  """Returns the relative paths of all images, in the order of their parts.

  Raises:
    UserError: an image is a broken link, or a directory cannot be read.
  """
  files_ = _listed(folder)
  paths = files_.images + _by_content(folder, files_.others)
  return sorted(paths, key=lambda path: path.split("/"))


def images_with_txt(folder: Path) -> list[str]:
  """Returns the relative paths of all images, which must have captions beside.

  They are in the order of their paths' parts.

  Raises:
    UserError: when an image has no .txt beside it or is a broken link, or a
      directory cannot be read or holds this one.
  """
  files_ = _listed(folder)
  images, captions = files_.images, files_.captions
  if files_.others:
    free = captions - set(map(caption_of, images))
    others = [path for path in files_.others if caption_of(path) in free]
    images += _by_content(folder, others)
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


def metadata(folder: Path) -> Path | None:
  """Returns the metadata.jsonl or metadata.csv that has the captions, or None.

  It has them if no image has a .txt beside it.
  """
  paths = [folder / name for name in _METADATA]
  path = next((path for path in paths if os.path.lexists(path)), None)
  if path is None or _listed(folder).captions:
    return None
  return path


class _Files(NamedTuple):
  """The files of a folder.

  Attributes:
    images: those with a suffix of images.
    captions: those with .txt.
    others: those with a suffix that says nothing, or without one.
  """

  images: list[str]
  captions: set[str]
  others: list[str]


def _listed(folder: Path) -> _Files:
  listed = _Files([], set(), [])
  what = f"Listing {folder}, files"
  for path, entry in opening.track(_walk(folder), what):
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".txt":
      listed.captions.add(path)
    elif suffix not in IMAGES and suffix:
      if suffix not in _DATA:
        listed.others.append(path)
    elif entry.is_symlink() and not os.path.exists(entry.path):
      # An image, or a folder of images on a disk that is not mounted.
      raise UserError(
          f"{folder / path} is a link to nothing. Repair or remove it."
      )
    elif not suffix:
      listed.others.append(path)
    elif entry.is_symlink() or entry.is_file():
      listed.images.append(path)
  return listed


def _by_content(folder: Path, paths: Sequence[str]) -> list[str]:
  """Returns which files begin as images do."""
  images = []
  for path in paths:
    try:
      if not os.path.isfile(folder / path):  # a pipe would wait for a writer
        continue
      with open(folder / path, "rb") as file:
        begin = file.read(12)
    except OSError:
      continue  # its name does not say that it is an image
    webp = begin[:4] == b"RIFF" and begin[8:] == b"WEBP"
    if webp or begin.startswith(_BEGINNINGS):
      images.append(path)
  return images


def caption_of(image: str) -> str:
  """Returns the path of the .txt beside an image."""
  return os.path.splitext(image)[0] + ".txt"


def hint(folder: Path) -> str:
  """Returns a sentence, after a space, on files that are not read; or ""."""
  paths = [path for path, _ in zip(_names(folder), range(_FEW), strict=False)]
  suffixes = {path: os.path.splitext(path)[1].lower() for path in paths}
  for suffix, key in ((".tar", "tars"), (".parquet", "parquet")):
    some = [path for path in paths if suffixes[path] == suffix]
    if some:
      pattern = folder / os.path.dirname(some[0]) / f"*{suffix}"
      return (
          f" It holds {some[0]}: give these files as {key}={pattern} instead of"
          " the folder as path."
      )
  for path in paths:
    if os.path.basename(path) in _METADATA and "/" in path:
      return f" It holds {path}: give {(folder / path).parent} as path."
  for path, suffix in suffixes.items():
    if suffix in _TABLES and path != "captions.jsonl":
      return (
          f" It holds {path}: give it as table={folder / path}, with `image`"
          " and `text` for its columns, instead of the folder as path; or write"
          f" a captions.jsonl, a line {_LINE} for each image."
      )
  return _classes_hint(suffixes) or _suffixes_hint(suffixes)


def _classes_hint(suffixes: dict[str, str]) -> str:
  images = [path for path, suffix in suffixes.items() if suffix in IMAGES]
  classes = sorted({os.path.dirname(path) for path in images})
  if images and "" not in classes and ".txt" not in suffixes.values():
    return (
        f" Its images lie in folders by name ({', '.join(classes[:3])}): if"
        " these are classes, give templates=('a photo of a {}.',), too; or"
        f" write a captions.jsonl, a line {_LINE} for each image."
    )
  return ""


def _suffixes_hint(suffixes: dict[str, str]) -> str:
  """Returns what a folder without images holds."""
  if not suffixes or any(suffix in IMAGES for suffix in suffixes.values()):
    return ""
  counts = collections.Counter(suffixes.values()).most_common(5)
  some = ", ".join(
      f"{n} {suffix or 'without a suffix'}" for suffix, n in counts
  )
  return f" It holds these files: {some}."


def _names(folder: Path) -> Iterator[str]:
  return (path for path, _ in _walk(folder))


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry]]:
  """Yields all files below a folder, with relative paths.

  Links to folders elsewhere are followed, each folder once. Those to folders
  inside are not: what is there is found anyway.

  Raises:
    UserError: when a link leads to a folder that holds this one, or a directory
      cannot be read.
  """
  root = os.path.realpath(folder)
  heads, known = [""], set()
  while heads:
    head = heads.pop()
    for entry in _entries(folder / head):
      # A link in a circle is an error to DirEntry.is_dir, but not to isdir.
      link = entry.is_symlink()
      if not (os.path.isdir(entry.path) if link else entry.is_dir()):
        yield head + entry.name, entry
        continue
      target = os.path.realpath(entry.path) if link else ""
      if link and inside(root, target) and root != target:
        raise UserError(
            f"{entry.path} is a link to {target}, which holds {folder} itself:"
            " it is not followed. Link the folder of images alone."
        )
      if not link or not (inside(target, root) or target in known):
        known |= {target}
        heads.append(f"{head}{entry.name}/")


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
