"""Folders of image embeddings, written once by `embed.py`, read ever after.

  manifest.json                          what made them, and counts; comes last
  tower.npz                              the image tower, as big_vision's file
  embeddings-00003-of-00010.array_record

A record is a msgpack map: `key`, the number of the example in the data it was
made of; `image`, the bytes of (crops, dim) little-endian numbers of the type
that the manifest names; and `rest`, a map of the example's texts and numbers.
msgpack holds bytes and text in any language, is read by any language, and
cannot run anything.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from array_record.python import array_record_data_source
from array_record.python import array_record_module  # pyright: ignore
from jaxtyping import Float
import ml_dtypes
import msgpack
import numpy as np

from siglip_jax import files
from siglip_jax.errors import UserError

MANIFEST = "manifest.json"
STARTED = "started.json"  # what the manifest will say, until there is one
TOWER = "tower.npz"
FORMAT = "siglip_jax embeddings 1"
DTYPES = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_AT_THE_END = {
    "tower_from": str,
    "counts": list,
    "skipped": int,
    "skipped_keys": list,
}
_MADE_BY = {
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
  """A finished folder of embeddings as a source of records.

  `image` of a record is (crops, dim); the rest is what the example had.

  Args:
    folder: with a manifest.json.
    split: that it must be of, or None for any.

  Attributes:
    manifest: what manifest.json holds.
    folder: where it is.

  Raises:
    UserError: no such folder, unfinished, damaged, or of another split.
  """

  def __init__(self, folder: str | Path, split: str | None = None):
    self.folder = Path(folder).expanduser()
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
    """Worker processes open the files themselves."""
    return Embeddings, (self.folder, self._split)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    found = msgpack.unpackb(self._data[index])
    z = np.frombuffer(found["image"], self._dtype).reshape(-1, self.dim)
    return msgpack.unpackb(found["rest"]) | {"image": z}

  def key(self, index: int) -> str:
    """The folder and the number of the example in its data."""
    number = msgpack.unpackb(self._data[index])["key"]
    return f"{self.folder}[{number}]"

  @property
  def dtype(self) -> np.dtype:
    """Of the embeddings."""
    return self._dtype

  @property
  def dim(self) -> int:
    """D."""
    return self.manifest["dim"]

  def every(self) -> Float[np.ndarray, "N D"]:
    """All embeddings in order, float32; of several crops the first."""
    z = [self[i]["image"][0] for i in range(len(self))]
    return np.stack(z).astype(np.float32)


def pack(key: int, image: np.ndarray, rest: bytes) -> bytes:
  """A record: `image` (crops, dim) as it is kept, `rest` of `pack_rest`."""
  return _packed({"key": key, "image": image.tobytes(), "rest": rest})


def pack_rest(record: Mapping[str, Any]) -> bytes:
  """The texts and numbers of an example, which is what is kept of it."""
  found = {}
  for name, value in record.items():
    if isinstance(value, np.generic):
      value = value.item()
    if isinstance(value, str | int | float):
      found[name] = value
  return _packed(found)


def _packed(content: Mapping[str, Any]) -> bytes:
  packed = msgpack.packb(content)
  assert packed is not None, "only a packer without autoreset returns nothing"
  return packed


def shard_paths(folder: Path, count: int) -> list[Path]:
  """The files of a folder of `count` shards."""
  return [
      folder / f"embeddings-{i:05d}-of-{count:05d}.array_record"
      for i in range(count)
  ]


def write_shard(path: Path, records: Iterable[bytes]) -> None:
  """Writes a shard, which appears when it is whole and on disk."""
  with files.replacing(path) as partial:
    # One record a group, or reading one at random would read others, too.
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    for record in records:
      writer.write(record)
    writer.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file, which appears when it is whole and on disk."""
  text = json.dumps(content, indent=2, ensure_ascii=False)
  with files.replacing(path) as partial:
    partial.write_text(text, "utf-8")


def count_records(path: Path) -> int:
  """How many a shard holds."""
  return _read(path, lambda reader: reader.num_records())


def keys(path: Path) -> set[int]:
  """The numbers of a shard's examples."""
  records = _read(path, lambda reader: reader.read_all())
  return {msgpack.unpackb(r)["key"] for r in records}


def _read(path: Path, get: Callable[[Any], Any]) -> Any:
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    found = get(reader)
    reader.close()
  except (ValueError, RuntimeError) as e:
    raise UserError(
        f"{path} is damaged ({str(e).splitlines()[0][:120]}). Remove it and"
        " start the same `python -m siglip_jax.embed` again."
    ) from None
  return found


def read_manifest(folder: Path) -> dict[str, Any]:
  """What manifest.json of a finished folder holds, its keys and types seen to.

  Raises:
    UserError: there is none, or something else.
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
  return read_json(path, _MADE_BY | _AT_THE_END)


def read_json(path: Path, types: Mapping[str, type] = _MADE_BY) -> dict:
  """A JSON object with these keys and types.

  Raises:
    UserError: something else.
  """
  try:
    found = json.loads(path.read_bytes())
    wrong = [k for k, t in types.items() if not isinstance(found[k], t)]
    if found["format"] != FORMAT or found["dtype"] not in DTYPES:
      wrong = ["format", "dtype"]
    if wrong:
      raise ValueError(f"{wrong[0]} is {found[wrong[0]]!r}")
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(
        f"{path} is not what this version of siglip_jax.embed writes"
        f" ({type(e).__name__}: {e}). Make the embeddings in a new folder."
    ) from None
  return found


def _check_shard(path: str, count: int) -> None:
  if not Path(path).is_file():
    raise UserError(
        f"{path} is missing, and the manifest counts on it. Copy the folder"
        " again, or remove its manifest.json and start the same `python -m"
        " siglip_jax.embed` again."
    )
  found = count_records(Path(path))
  if found != count:
    raise UserError(
        f"{path} must hold {count} records, as the manifest says; it holds"
        f" {found}. Copy the folder again."
    )
