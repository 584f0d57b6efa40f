"""Folders of stored image embeddings.

`python -m siglip_jax.embed` writes a folder once; training then reads it:

  manifest.json                          how it was made, counts; written last
  tower.npz                              the image tower, in big_vision's format
  embeddings-00003-of-00010.array_record

A record is a msgpack map with three fields: `key`, the example's index in its
data set; `image`, the bytes of a (crops, dim) array, little-endian and in the
manifest's dtype; and `rest`, a packed map of the example's texts, lists of
texts and numbers.
msgpack stores bytes and text in any human language, can be read from any
programming language, and cannot execute code.
"""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from array_record.python import array_record_data_source
from array_record.python import array_record_module  # pyright: ignore
from jaxtyping import Float
import ml_dtypes
import msgpack
import numpy as np

from siglip_jax import files
from siglip_jax.data import opening
from siglip_jax.errors import UserError

MANIFEST = "manifest.json"
STARTED = "started.json"  # known fields until the manifest is written
TOWER = "tower.npz"
IMAGE_ID = "image_id"  # a number or text in `rest`
_CHUNK = 1024  # records read together
FORMAT = "siglip_jax embeddings 1"
DTYPES = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_FINAL_FIELDS = {
    "tower_from": str,
    "counts": list,
    "skipped": int,
    "skipped_keys": list,
}
_FIELDS = {
    "format": str,
    "tower_digest": str,
    "tower_sizes": dict,
    "image_size": int,
    "image": str,
    "made_with": str,
    "crops": int,
    "seed": int,
    "data": dict,
    "split": str,
    "examples": int,
    "shard_size": int,
    "dtype": str,
    "dim": int,
}


class Embeddings:
  """A source that reads a finished folder of embeddings.

  A record's `image` has shape (crops, dim); its other fields are the example's
  texts and numbers.

  Args:
    folder: a folder with a manifest.json.
    split: the split that the folder must hold, or None for any.

  Attributes:
    manifest: the content of manifest.json.
    folder: the folder's path.

  Raises:
    UserError: when the folder does not exist, is unfinished or damaged, or
      holds another split.
  """

  def __init__(self, folder: str | Path, split: str | None = None):
    self.folder = Path(os.path.expanduser(folder))
    self.manifest = read_manifest(self.folder)
    if split not in (None, self.manifest["split"]):
      raise UserError(
          f"{self.folder} must hold embeddings of the split {split!r}; it holds"
          f" those of {self.manifest['split']!r}. Give another folder, or make"
          f" it with `python -m siglip_jax.embed --split={split}`."
      )
    self._split = split
    self._dtype = DTYPES[self.manifest["dtype"]]
    counts = self.manifest["counts"]
    paths = [str(p) for p in shard_paths(self.folder, len(counts))]
    for path, count in zip(paths, counts, strict=True):
      _check_shard(path, count)
    self._data = array_record_data_source.ArrayRecordDataSource(
        [p for p, count in zip(paths, counts, strict=True) if count]
    )

  def __reduce__(self):
    """Pickles the arguments; worker processes reopen the files."""
    return Embeddings, (self.folder, self._split)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = msgpack.unpackb(self._data[index])
    return msgpack.unpackb(record["rest"]) | {"image": self._z(record)}

  def key(self, index: int) -> str:
    """Returns the folder and the example's index in its data set."""
    key = msgpack.unpackb(self._data[index])["key"]
    return f"{self.folder}[{key}]"

  def values(self, key: str) -> list[Any] | None:
    """Returns the value under `key` of all records, without the embeddings.

    The result is None if a record does not have the key.
    """
    what = f"Reading {key!r} of {self.folder}, records"
    parts = opening.track(self._parts(), what, total=len(self), size=len)
    try:
      return [msgpack.unpackb(r["rest"])[key] for r in self._packed(parts)]
    except KeyError:
      return None

  def image_ids(self) -> Sequence[Hashable]:
    """Returns a value for each record, equal where records share an image.

    It is the value of IMAGE_ID, which only data with shared images need.
    """
    ids = self.values(IMAGE_ID) if len(self) and IMAGE_ID in self[0] else None
    return range(len(self)) if ids is None else ids

  def digest(self) -> str:
    """Returns a digest of the manifest and of the sizes of all shards."""
    paths = shard_paths(self.folder, len(self.manifest["counts"]))
    sizes = [path.stat().st_size for path in paths]
    content = json.dumps([self.manifest, sizes], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]

  def _parts(self) -> list[range]:
    starts = range(0, len(self), _CHUNK)
    return [range(s, min(s + _CHUNK, len(self))) for s in starts]

  def _packed(self, parts: Iterable[range]) -> Iterator[dict[str, Any]]:
    """Yields the records of the parts, their fields still packed."""
    for part in parts:
      yield from map(msgpack.unpackb, self._data.__getitems__(list(part)))

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the stored embeddings."""
    return self._dtype

  @property
  def dim(self) -> int:
    """The width of an embedding, D."""
    return self.manifest["dim"]

  def every(self) -> Float[np.ndarray, "N D"]:
    """Returns every image's first embedding, in order, as float32."""
    z = [self._z(record)[0] for record in self._packed(self._parts())]
    return np.stack(z).astype(np.float32)

  def _z(self, record: Mapping[str, Any]) -> np.ndarray:
    z = np.frombuffer(record["image"], self._dtype)
    return z.reshape(-1, self.dim)


def pack(key: int, image: np.ndarray, rest: bytes) -> bytes:
  """Returns a packed record.

  Args:
    key: the example's index in its data set.
    image: embeddings of shape (crops, dim), in the stored dtype.
    rest: the bytes from `pack_rest`.
  """
  return _packed({"key": key, "image": image.tobytes(), "rest": rest})


def pack_rest(record: Mapping[str, Any]) -> bytes:
  """Packs an example's texts, lists of texts and numbers; drops the rest."""
  fields = {}
  for name, value in record.items():
    if isinstance(value, np.generic):
      value = value.item()
    texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if texts or isinstance(value, str | int | float):
      fields[name] = value
  return _packed(fields)


def _packed(content: Mapping[str, Any]) -> bytes:
  packed = msgpack.packb(content)
  assert packed is not None, "only a packer without autoreset returns nothing"
  return packed


def shard_paths(folder: Path, count: int) -> list[Path]:
  """Returns the shard files of a folder with `count` shards."""
  return [
      folder / f"embeddings-{i:05d}-of-{count:05d}.array_record"
      for i in range(count)
  ]


def write_shard(path: Path, records: Iterable[bytes]) -> None:
  """Writes a shard; the file appears only once it is complete on disk."""
  with files.replacing(path) as partial:
    # With larger groups, reading one record would read its whole group.
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    for record in records:
      writer.write(record)
    writer.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file, which appears only once it is complete on disk."""
  text = json.dumps(content, indent=2, ensure_ascii=False)
  with files.replacing(path) as partial:
    partial.write_text(text, "utf-8")


def count_records(path: Path) -> int:
  """Returns the number of records in a shard."""
  return _read(path, lambda reader: reader.num_records())


def keys(path: Path) -> set[int]:
  """Returns the keys of a shard's records."""
  records = _read(path, lambda reader: reader.read_all())
  return {msgpack.unpackb(r)["key"] for r in records}


def _read(path: Path, get: Callable[[Any], Any]) -> Any:
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    result = get(reader)
    reader.close()
  except (ValueError, RuntimeError) as e:
    raise UserError(
        f"{path} is damaged ({str(e).splitlines()[0][:120]}). Remove it and"
        " start the same `python -m siglip_jax.embed` again."
    ) from None
  return result


def read_manifest(folder: Path) -> dict[str, Any]:
  """Returns a finished folder's manifest after checking its keys and types.

  Raises:
    UserError: when there is no folder or manifest, or the manifest is invalid.
  """
  path = folder / MANIFEST
  if not folder.is_dir():
    raise UserError(
        f"There is no folder of embeddings {folder}: `python -m"
        f" siglip_jax.embed --config=... --out={folder}` makes it."
    )
  if not path.is_file():
    raise UserError(
        f"{folder} holds no {MANIFEST}, so its embeddings are not finished:"
        " start the same `python -m siglip_jax.embed` again, or give another"
        " folder."
    )
  return read_json(path, _FIELDS | _FINAL_FIELDS)


def read_json(path: Path, types: Mapping[str, type] = _FIELDS) -> dict:
  """Returns a JSON object after checking its keys and types.

  Raises:
    UserError: when the file cannot be read, or holds anything else.
  """
  try:
    content = json.loads(path.read_bytes())
    wrong = [k for k, t in types.items() if not isinstance(content[k], t)]
    if content["format"] != FORMAT or content["dtype"] not in DTYPES:
      wrong = ["format", "dtype"]
    if wrong:
      raise ValueError(f"{wrong[0]} is {content[wrong[0]]!r}")
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(
        f"{path} is not what this version of siglip_jax.embed writes"
        f" ({type(e).__name__}: {e}). Make the embeddings in a new folder."
    ) from None
  return content


def _check_shard(path: str, count: int) -> None:
  if not Path(path).is_file():
    raise UserError(
        f"{path} is missing, and the manifest counts on it. Copy the folder"
        " again, or remove its manifest.json and start the same `python -m"
        " siglip_jax.embed` again."
    )
  actual = count_records(Path(path))
  if actual != count:
    raise UserError(
        f"{path} must hold {count} records, as the manifest says; it holds"
        f" {actual}. Copy the folder again."
    )
