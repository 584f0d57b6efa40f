"""A source that reads a data set prepared by TFDS."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
from concurrent import futures
import hashlib
import os
from pathlib import Path
import re
from typing import Any

from array_record.python import array_record_module  # pyright: ignore
import numpy as np

from siglip_jax.data import folders
from siglip_jax.data import opening
from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError

_THREADS = 16  # wait for a network file system together
_FIRST = re.compile(r"(?P<split>\w+)\[:(?P<count>\d+)\]")
_CHUNK = 256  # records, whose images are in memory together


class TfdsSource:
  """A source that reads a prepared TFDS data set.

  Args:
    folder: the folder of one version, with its dataset_info.json.
    name: name of the data set, for messages.
    split: "train", "train[:80%]", ...

  Attributes:
    texts: names of the features that are texts, or lists of texts.

  Raises:
    UserError: when there is no such split, a file is missing or damaged, or the
      files do not support random access.
  """

  def __init__(self, folder: str, name: str, split: str):
    builder = _builder(folder)
    split = _clamped(builder.info, split)
    self.folder, self.name, self.split = folder, name, split
    self._features: Any = builder.info.features
    self._images, self.texts = _kinds(self._features)
    self._data = _open(builder, name, split, self._images)
    _check_files(builder.info, split)

  def __reduce__(self):
    """Pickles the arguments; worker processes reopen the files."""
    return TfdsSource, (self.folder, self.name, self.split)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      record = self._data[index]
    # TFDS and ArrayRecord raise many kinds on damaged files.
    except Exception as e:  # pylint: disable=broad-except
      raise ImageError(_first_line(e)) from None
    return self._flat(record, index)

  def key(self, index: int) -> str:
    """Returns the data set, split and index."""
    return f"{self.name}/{self.split}[{index}]"

  def values(self, key: str) -> list[Any] | None:
    """Returns the value under `key` of all records, without other features.

    The result is None if the data set does not have the key.

    Raises:
      UserError: when a record cannot be read.
    """
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    top = key.partition("/")[0]
    if top not in self._features or key in self._images:
      return None
    part = tfds.features.FeaturesDict({top: self._features[top]})
    values = []
    for index, data in self._raw(f"Reading {key!r} of {self.name}, records"):
      record: Any = part.deserialize_example_np(data)
      flat = self._flat(record, index)
      if key not in flat:
        return None
      values.append(flat[key])
    return values

  def digest(self) -> str:
    """Returns a digest of the files and sizes of the version, and the split."""
    folder = Path(self.folder)
    paths = sorted(folder.glob("*.array_record*"))
    sizes = [(p.name, p.stat().st_size) for p in paths]
    features = folder / "features.json"
    content = features.read_bytes() if features.exists() else b""
    text = repr((folder.name, self.split, len(self), sizes))
    return hashlib.sha256(text.encode() + content).hexdigest()[:12]

  def _raw(self, what: str) -> Iterator[tuple[int, bytes]]:
    """Yields all records, serialized, by index."""
    starts = range(0, len(self), _CHUNK)
    parts = [range(s, min(s + _CHUNK, len(self))) for s in starts]
    for part in opening.track(parts, what, total=len(self), size=len):
      try:
        records = self._data.data_source.__getitems__(list(part))
      except Exception:  # pylint: disable=broad-except
        records = [self._one(index) for index in part]  # names the bad one
      yield from zip(part, records, strict=True)

  def _one(self, index: int) -> bytes:
    try:
      return self._data.data_source[index]
    except Exception as e:  # pylint: disable=broad-except
      raise UserError(
          f"{self.key(index)} cannot be read: {_first_line(e)}. Copy the data"
          " set again."
      ) from None

  def _flat(
      self, record: Mapping[str, Any], index: int, prefix: str = ""
  ) -> dict[str, Any]:
    """Flattens nested features, joining their names with "/".

    Bytes become str, except for those of images.
    """
    flat = {}
    for key, value in record.items():
      name = f"{prefix}{key}"
      if isinstance(value, Mapping):
        flat |= self._flat(value, index, f"{name}/")
      elif name in self._images:
        flat[name] = value
      else:
        try:
          flat[name] = _decoded(value)
        except UnicodeDecodeError as e:
          if name in self.texts:
            raise UserError(
                f"Texts must be UTF-8; {name!r} of {self.key(index)} is not, at"
                f" byte {e.start}. Prepare the data set again with text that"
                " is."
            ) from None
          flat[name] = value  # bytes that need not be text
    return flat


def tfds_source(name: str, split: str, *, data_dir: str | Path) -> TfdsSource:
  """Returns the newest version of a data set prepared under `data_dir`.

  Args:
    name: TFDS name, with the config if the data set has several.
    split: "train", "train[:80%]", ...
    data_dir: TFDS data folder.

  Raises:
    UserError: when there is no such data set or split, a file is missing or
      damaged, or the files do not support random access.
  """
  folders.check_local(data_dir)
  folder = Path(os.path.expanduser(data_dir)) / name
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


def _builder(folder: str):
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  try:
    builder = tfds.builder_from_directory(folder)
    assert isinstance(builder.info.features, tfds.features.FeaturesDict)
    return builder
  # TFDS raises many kinds on damaged files.
  except Exception as e:  # pylint: disable=broad-except
    raise UserError(
        f"{folder} must be a data set that TFDS has prepared, with named"
        f" features; it cannot be opened ({type(e).__name__}:"
        f" {_first_line(e)}). Prepare or copy it again."
    ) from None


def _open(builder, name: str, split: str, images: Set[str]) -> Any:
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  try:
    return builder.as_data_source(
        split, decoders={k: tfds.decode.SkipDecoding() for k in images}
    )
  except NotImplementedError:
    raise UserError(
        f"Random access needs ArrayRecord files; {builder.data_path} holds"
        f" {builder.info.file_format}. Prepare it again with"
        " file_format='array_record'."
    ) from None
  except (KeyError, ValueError, AssertionError) as e:
    raise UserError(
        f"{name} has no split {split!r}; it has"
        f" {', '.join(builder.info.splits)}. ({_first_line(e)})"
    ) from None


def _clamped(info, split: str) -> str:
  """Returns a split, whole if "split[:N]" asks for more than there is.

  TFDS refuses that.
  """
  first = _FIRST.fullmatch(split)
  if first and first["split"] in info.splits:
    if int(first["count"]) > info.splits[first["split"]].num_examples:
      return first["split"]
  return split


def _check_files(info, split: str) -> None:
  """Opens each file of a split, and compares its number of records."""
  shards = {
      str(shard.filename): shard.examples_in_shard
      for shard in info.splits[split].file_instructions
  }
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    counts = pool.map(_count, shards)
    what = f"Opening files of {info.name}"
    for path, count in zip(
        shards, opening.track(counts, what, total=len(shards)), strict=True
    ):
      if count != shards[path]:
        raise UserError(
            f"{path} must hold {shards[path]} records; it is missing or damaged"
            f" ({count}). Copy the data set again."
        )


def _count(path: str) -> int | str:
  """Returns the number of records in a file, or why it cannot be read."""
  if not Path(path).is_file():
    return "no such file"
  try:
    reader = array_record_module.ArrayRecordReader(path)
    count = reader.num_records()
    reader.close()
    return count
  except Exception as e:  # pylint: disable=broad-except
    return _first_line(e)


def _kinds(features: Any, prefix: str = "") -> tuple[Set[str], Set[str]]:
  """Returns the names of top-level images, and of texts or lists of them."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  images, texts = set(), set()
  for key, feature in features.items():
    name = f"{prefix}{key}"
    if isinstance(feature, tfds.features.Image) and not prefix:
      images.add(name)
    while isinstance(feature, tfds.features.Sequence):
      feature = feature.feature
    if isinstance(feature, tfds.features.FeaturesDict):
      texts |= _kinds(feature, f"{name}/")[1]
    elif isinstance(feature, tfds.features.Text):
      texts.add(name)
  return images, texts


def _decoded(value: Any) -> Any:
  """Returns bytes as str, also in lists; other values as they are."""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, np.ndarray) and value.dtype == object:
    value = value.tolist()
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [_decoded(v) for v in value]
  return value


def _first_line(e: Exception) -> str:
  return (str(e).splitlines() or [type(e).__name__])[0][:200]
