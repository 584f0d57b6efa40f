"""Random access to records: TFDS data sets, folders, embeddings.

A record is a flat dict. "image" is an encoded image, or its embeddings; texts
are strings.
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
  """A random-access source of records."""

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    ...

  def key(self, index: int) -> str:
    """Returns a readable name of a record, for messages."""
    ...


def make(
    *,
    split: str,
    name: str | None = None,
    path: str | None = None,
    data_dir: str | Path = "data",
    embeddings: str | None = None,
) -> Source:
  """Returns the source that `name`, `path` or `embeddings` specifies.

  Args:
    split: the split to read.
    name: a TFDS data set.
    path: a folder of captioned images.
    data_dir: TFDS data folder, for `name`.
    embeddings: a folder that `python -m siglip_jax.embed` wrote.

  Raises:
    UserError: when not exactly one of the three is given, or it cannot be read.
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
  """A source that reads a prepared TFDS data set.

  Args:
    folder: the folder of one version, with its dataset_info.json.
    name: name of the data set, for messages.
    split: "train", "train[:80%]", ...

  Raises:
    UserError: when there is no such split, or the files do not support random
      access.
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
    """Pickles the arguments; worker processes reopen the files."""
    return TfdsSource, (self.folder, self.name, self.split)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return _flat(self._data[index], self._images)

  def key(self, index: int) -> str:
    """Returns the data set, split and index."""
    return f"{self.name}/{self.split}[{index}]"


def tfds_source(name: str, split: str, *, data_dir: str | Path) -> TfdsSource:
  """Returns the newest version of a data set prepared under `data_dir`.

  Args:
    name: TFDS name, with the config if the data set has several.
    split: "train", "train[:80%]", ...
    data_dir: TFDS data folder.

  Raises:
    UserError: when there is no such data set or split, or its files do not
      support random access.
  """
  folder = Path(data_dir).expanduser() / name
  # An interrupted build leaves folders like incomplete.AB_1.0.0.
  versions = sorted(
      (tuple(map(int, p.parent.name.split("."))), p.parent)
      for p in folder.glob("*.*.*/dataset_info.json")
      if p.parent.name.replace(".", "").isdecimal()
  )
  if not versions:
    hint = (
        f"`python -m siglip_jax.data.emoji --data_dir={data_dir}` builds it."
        if name == "emoji"
        else "Prepare it with TFDS as file_format='array_record'."
    )
    raise UserError(f"There is no data set at {folder}. {hint}")
  return TfdsSource(str(versions[-1][1]), name, split)


def _flat(
    record: Mapping[str, Any], images: Set[str], prefix: str = ""
) -> dict[str, Any]:
  """Flattens nested features, joining their names with "/".

  Decodes bytes to str, except for the features in `images`.
  """
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
