"""Columns of an index: values of each sample by which data are filtered.

They come from the .json member of a sample; what it does not have, from the
parquet file that img2dataset writes beside each shard.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
from typing import Any
import zlib

import numpy as np

from siglip_jax.data import remote
from siglip_jax.data.tars import table
from siglip_jax.errors import UserError

KEY = "key"  # the column of the samples' own keys
LONGEST_JSON = 1 << 20  # bytes
_LONGEST = 256  # characters of a text
_MOST = 1 << 30  # bytes of the texts of a column, of one shard
_INTS = ("|i1", "<i2", "<i4", "<i8")
_FIELDS = 50  # that are remembered for messages


class Picker:
  """Values of columns, picked from JSON objects as a walk passes them.

  Args:
    names: the columns; "a.b" is the field b of the object a.

  Attributes:
    fields: the fields of the objects, for messages.
    bad: number of members that are not JSON objects.
  """

  def __init__(self, names: Sequence[str]):
    self.names = tuple(names)
    self.fields: dict[str, None] = {}
    self.bad = 0
    self._values: dict[int, tuple[Any, ...]] = {}

  def add(self, sample: int, content: bytes) -> None:
    """Takes the values of a sample from its JSON."""
    try:
      record = json.loads(content)
      fields = record.keys()
    except (ValueError, AttributeError, RecursionError):
      self.bad += 1
      return
    if len(self.fields) < _FIELDS:
      self.fields |= dict.fromkeys(list(fields)[:_FIELDS])
    self._values[sample] = tuple(field(record, n) for n in self.names)

  def column(self, name: str, samples: Sequence[int]) -> list[Any]:
    """Returns the values of some samples, None where there is none."""
    place = self.names.index(name)
    absent = (None,) * len(self.names)
    return [self._values.get(sample, absent)[place] for sample in samples]


def field(record: Mapping[str, Any], name: str) -> Any:
  """Returns the field of a JSON object; None if it has none.

  Args:
    record: the object.
    name: the field's name; "a.b" is also the field b of the object a.
  """
  value = record.get(name)
  if value is None and "." in name:
    value = record
    for word in name.split("."):
      value = value.get(word) if isinstance(value, dict) else None
  return value


def beside(path: str, names: Sequence[str], keys: Sequence[str]) -> dict:
  """Returns columns of the parquet file beside a shard, by the samples' keys.

  Args:
    path: the shard.
    names: the columns that are looked for; those that are not there are left
      out.
    keys: keys of the samples, which the file has in a column "key".

  Raises:
    UserError: the file cannot be read, or pyarrow is not installed.
  """
  other = os.path.splitext(path)[0] + ".parquet"
  if not remote.exists(other):
    return {}
  try:
    import pyarrow as pa  # pylint: disable=g-import-not-at-top
    from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError(
        f"Columns {', '.join(names)} may be in {other}, which needs pyarrow."
        " Install it: pip install pyarrow."
    ) from None
  try:
    file = parquet.ParquetFile(pa.BufferReader(remote.read_small(other)))
    there = [name for name in names if name in file.schema_arrow.names]
    if "key" not in file.schema_arrow.names or not there:
      return {}
    rows = file.read(columns=["key", *there]).to_pydict()
  except (pa.ArrowException, OSError) as e:
    raise UserError(
        f"{other} must be a parquet file; it cannot be read ({e}). Repair or"
        " remove it, or leave its columns out."
    ) from None
  place = {str(key): row for row, key in enumerate(rows["key"])}
  found = [place.get(key.rpartition("/")[2]) for key in keys]
  return {
      name: [None if row is None else rows[name][row] for row in found]
      for name in there
  }


def encode(name: str, values: Sequence[Any]) -> tuple[dict[str, Any], bytes]:
  """Returns the description of a column and its blob.

  Values that are neither numbers nor short texts are taken for absent, and
  counted as "left_out".
  """
  plain = [_plain(value) for value in values]
  lost = sum(
      p is None and v is not None for p, v in zip(plain, values, strict=True)
  )
  filled = sum(p is not None for p in plain)
  words = {"name": name, "filled": filled, "left_out": lost}
  if any(isinstance(value, str) for value in plain):
    texts = [None if value is None else str(value) for value in plain]
    content = json.dumps(texts, separators=(",", ":")).encode()
    words |= {"kind": "str", "bytes": len(content)}
    return words, zlib.compress(content, 6)
  array = _numbers(plain)
  return words | {"kind": array.dtype.str}, table.pack(array)


def decode(words: Mapping[str, Any], blob: bytes, samples: int) -> np.ndarray:
  """Returns a column: numbers, NaN where absent, or texts and None.

  Raises:
    ValueError: the blob is damaged.
  """
  if words["kind"] == "str":
    if not 0 <= words["bytes"] <= _MOST:
      raise ValueError(f"a column of {words['bytes']} bytes")
    texts = json.loads(table.inflate(blob, words["bytes"]))
    column = np.empty(samples, object)
    column[:] = texts
    return column
  if words["kind"] not in (*_INTS, "<f4", "<f8"):
    raise ValueError(f"a column of the kind {words['kind']!r}")
  return table.unpack(blob, words["kind"], (samples,))


def _plain(value: Any) -> int | float | str | None:
  if isinstance(value, bool):
    return int(value)
  if isinstance(value, int):
    return value if -(2**63) <= value < 2**63 else None
  if isinstance(value, float):
    return value if np.isfinite(value) else None
  if isinstance(value, str) and len(value) <= _LONGEST:
    return value
  return None


def _numbers(values: Sequence[Any]) -> np.ndarray:
  """Returns numbers in the smallest type that holds them exactly."""
  if values and all(isinstance(value, int) for value in values):
    array = np.array(values, np.int64)
    low, high = array.min(), array.max()
    for kind in _INTS:
      if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
        return array.astype(kind)
  absent = [np.nan if value is None else value for value in values]
  array = np.array(absent, "<f8")
  with np.errstate(over="ignore"):
    small = array.astype("<f4")
  return small if np.array_equal(small, array, equal_nan=True) else array
