"""Random access to records: TFDS data sets and folders of pictures.

A record is a flat dict; "image" is an encoded picture, texts are strings.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from siglip_jax.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@runtime_checkable
class Source(Protocol):
  """Records by number."""

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    ...

  def key(self, index: int) -> str:
    """A name of a record for people."""
    ...


def make(
    *,
    split: str,
    name: str | None = None,
    path: str | None = None,
    data_dir: str | Path = "data",
) -> Source:
  """A TFDS data set by `name`, or a folder by `path`; exactly one of them."""
  if (name is None) == (path is None):
    raise UserError(
        "Data need either `name` (a TFDS data set) or `path` (a folder of"
        f" pictures); got name={name!r}, path={path!r}."
    )
  if name is not None:
    return tfds_source(name, split, data_dir=data_dir)
  return folder_source(str(path), split)


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """A prepared TFDS data set; the files are opened on first use."""

  folder: str
  name: str
  split: str

  def __post_init__(self):
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    builder = tfds.builder_from_directory(self.folder)
    decoders = {
        k: tfds.decode.SkipDecoding()
        for k, f in builder.info.features.items()
        if isinstance(f, tfds.features.Image)
    }
    try:
      data = builder.as_data_source(self.split, decoders=decoders)
    except NotImplementedError:
      raise UserError(
          f"Random access needs ArrayRecord files; {self.folder} holds"
          f" {builder.info.file_format}. Prepare it again with"
          " file_format='array_record'."
      ) from None
    except (KeyError, ValueError, AssertionError) as e:
      raise UserError(
          f"{self.name} has no split {self.split!r}; it has"
          f" {', '.join(builder.info.splits)}. ({str(e).splitlines()[0]})"
      ) from None
    object.__setattr__(self, "_data", data)
    object.__setattr__(self, "_pictures", frozenset(decoders))

  def __getstate__(self):
    return self.folder, self.name, self.split

  def __setstate__(self, state):
    for field, value in zip(("folder", "name", "split"), state, strict=True):
      object.__setattr__(self, field, value)
    self.__post_init__()

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return _flat(self._data[index], self._pictures)

  def key(self, index: int) -> str:
    """Data set, split and number."""
    return f"{self.name}/{self.split}[{index}]"


def tfds_source(name: str, split: str, *, data_dir: str | Path) -> TfdsSource:
  """The newest version of a data set prepared under `data_dir`.

  Args:
    name: as TFDS names it, with the config where there are several.
    split: "train", "train[:80%]", ...
    data_dir: TFDS data folder.
  """
  folder = Path(data_dir).expanduser() / name
  # An interrupted build leaves folders like incomplete.AB_1.0.0.
  versions = sorted(
      (tuple(map(int, p.parent.name.split("."))), p.parent)
      for p in folder.glob("*.*.*/dataset_info.json")
      if p.parent.name.replace(".", "").isdecimal()
  )
  if not versions:
    how = (
        f"`python -m siglip_jax.data.emoji --data_dir={data_dir}` builds it."
        if name == "emoji"
        else "Prepare it with TFDS as file_format='array_record'."
    )
    raise UserError(f"There is no data set at {folder}. {how}")
  return TfdsSource(str(versions[-1][1]), name, split)


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Pictures of a folder and their captions."""

  folder: Path
  entries: Sequence[tuple[str, str]]  # path inside the folder, caption

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, text = self.entries[index]
    return {"image": (self.folder / path).read_bytes(), "text": text}

  def key(self, index: int) -> str:
    """The path of the picture."""
    return str(self.folder / self.entries[index][0])


def folder_source(path: str | Path, split: str = "all") -> FolderSource:
  """Pictures with a .txt beside each, or named in a captions.jsonl.

  Args:
    path: the folder, read with all its subfolders.
    split: "all", "train", or "validation": a twentieth by a hash of the path.

  Raises:
    UserError: no such folder, no picture in it, a picture without a caption,
      or a caption file that is not UTF-8 or not as described.
  """
  folder = Path(path).expanduser()
  if split not in ("all", "train", "validation"):
    raise UserError(
        f"The split of a folder is all, train or validation; got {split!r}."
    )
  if not folder.is_dir():
    raise UserError(f"There is no folder {folder}: give a folder of pictures.")
  captions = folder / "captions.jsonl"
  entries = _from_jsonl(captions) if captions.exists() else _from_txt(folder)
  if not entries:
    raise UserError(
        f"The folder {folder} is empty: expected pictures"
        f" ({', '.join(PICTURES)}) with a .txt beside each, or a"
        " captions.jsonl."
    )
  if split != "all":
    wanted = split == "validation"
    entries = [e for e in entries if _in_validation(e[0]) == wanted]
    if not entries:
      raise UserError(
          f"The folder {folder} has no picture in the split {split}: a"
          " twentieth goes to validation by a hash of the path. Add pictures,"
          " or use split='all'."
      )
  return FolderSource(folder, tuple(entries))


def _from_txt(folder: Path) -> list[tuple[str, str]]:
  entries = []
  for path in sorted(folder.rglob("*")):
    if path.suffix.lower() in PICTURES and path.is_file():
      caption = path.with_suffix(".txt")
      if not caption.exists():
        raise UserError(
            f"{path} has no caption: expected {caption.name} beside it."
        )
      text = _utf8(caption, caption.read_bytes()).strip()
      entries.append((path.relative_to(folder).as_posix(), text))
  return entries


def _from_jsonl(captions: Path) -> list[tuple[str, str]]:
  entries = []
  for number, line in enumerate(captions.read_bytes().splitlines(), 1):
    where = f"{captions}, line {number}"
    if not line.strip():
      continue
    decoded = _utf8(where, line)
    try:
      entry = json.loads(decoded)
      path, text = entry["image"], entry["text"]
      # JSON can spell halves of surrogate pairs, which are no text.
      valid = isinstance(path, str) and isinstance(text, str)
      valid = valid and "\0" not in path and bool((path + text).encode())
    except (ValueError, KeyError, TypeError, RecursionError):
      valid = False
    if not valid:
      raise UserError(
          f'{where} must be {{"image": "a/b.png", "text": "..."}}; got'
          f" {line[:80]!r}."
      )
    full = (captions.parent / path).resolve()
    if not full.is_relative_to(captions.parent.resolve()):
      raise UserError(f"{where}: {path!r} is outside the folder.")
    if not full.is_file():
      raise UserError(f"{where}: there is no picture {path!r}.")
    entries.append((path, text))
  return entries


def _utf8(where, data: bytes) -> str:
  try:
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    raise UserError(
        f"Captions must be UTF-8; {where} is not, at byte {e.start}. Convert"
        " it, for example with iconv."
    ) from None


def _in_validation(path: str) -> bool:
  return hashlib.sha256(os.fsencode(path)).digest()[0] < 256 / 20


def _flat(
    record: Mapping[str, Any], pictures: Set[str], prefix: str = ""
) -> dict[str, Any]:
  """Nested features joined by "/"; texts as str, `pictures` as bytes."""
  flat = {}
  for key, value in record.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat |= _flat(value, pictures, f"{name}/")
    elif isinstance(value, bytes) and name not in pictures:
      flat[name] = value.decode("utf-8")
    else:
      flat[name] = value
  return flat
