"""Random access to records: TFDS data sets, folders, embeddings.

A record is a flat dict; "image" is an encoded image, texts are strings.
"""

from collections.abc import Mapping
from collections.abc import Set
from pathlib import Path
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from siglip_jax.data import folders
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.errors import UserError


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
    embeddings: str | None = None,
) -> Source:
  """A TFDS data set by `name`, a folder by `path`, or embeddings by folder.

  Raises:
    UserError: not exactly one of them, or what is there cannot be read.
  """
  if sum(x is not None for x in (name, path, embeddings)) != 1:
    raise UserError(
        "Data need either `name` (a TFDS data set), `path` (a folder of"
        " images) or `embeddings` (a folder that siglip_jax.embed wrote); got"
        f" name={name!r}, path={path!r}, embeddings={embeddings!r}."
    )
  if embeddings is not None:
    return Embeddings(embeddings, split)
  if name is not None:
    return tfds_source(name, split, data_dir=data_dir)
  return folders.folder_source(str(path), split)


class TfdsSource:
  """A prepared TFDS data set.

  Args:
    folder: of one version, with its dataset_info.json.
    name: for people.
    split: "train", "train[:80%]", ...

  Raises:
    UserError: no such split, or files that cannot be read at random.
  """

  def __init__(self, folder: str, name: str, split: str):
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    self.folder, self.name, self.split = folder, name, split
    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    assert isinstance(features, tfds.features.FeaturesDict), features
    self._images = frozenset(
        k for k, f in features.items() if isinstance(f, tfds.features.Image)
    )
    as_data_source: Any = builder.as_data_source  # a decorator hides its type
    try:
      self._data = as_data_source(
          split,
          decoders={k: tfds.decode.SkipDecoding() for k in self._images},
      )
    except NotImplementedError:
      raise UserError(
          f"Random access needs ArrayRecord files; {folder} holds"
          f" {builder.info.file_format}. Prepare it again with"
          " file_format='array_record'."
      ) from None
    except (KeyError, ValueError, AssertionError) as e:
      raise UserError(
          f"{name} has no split {split!r}; it has"
          f" {', '.join(builder.info.splits)}. ({str(e).splitlines()[0]})"
      ) from None

  def __reduce__(self):
    """Worker processes open the files themselves."""
    return TfdsSource, (self.folder, self.name, self.split)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return _flat(self._data[index], self._images)

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


def _flat(
    record: Mapping[str, Any], images: Set[str], prefix: str = ""
) -> dict[str, Any]:
  """Nested features joined by "/"; texts as str, `images` as bytes."""
  flat = {}
  for key, value in record.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat |= _flat(value, images, f"{name}/")
    elif isinstance(value, bytes) and name not in images:
      flat[name] = value.decode("utf-8")
    else:
      flat[name] = value
  return flat
