"""Columns: picked from JSON, joined from parquet, stored exactly."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from siglip_jax.data.tars import columns
from siglip_jax.errors import UserError

VALUES = {
    "small integers": ([3, -4, 127], "|i1"),
    "large integers": ([3, 1 << 40], "<i8"),
    "booleans": ([True, False], "|i1"),
    "floats": ([0.5, 2.0], "<f4"),
    "decimals": ([0.1, 0.28], "<f8"),
    "absent": ([None, 7], "<f4"),
    "all absent": ([None, None], "<f4"),
    "beyond 64 bits": ([1 << 70, 1], "<f4"),
    "not finite": ([float("inf"), 1.0], "<f4"),
    "texts": (["en", None, "de", ""], "str"),
    "texts and numbers": (["a", 5], "str"),
    "empty": ([], "<f4"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_column_is_the_same_after_its_file(kind):
  values, stored = VALUES[kind]
  words, blob = columns.encode("x", values)
  assert words["kind"] == stored
  column = columns.decode(words, blob, len(values))
  if stored == "str":
    expected = [None if v is None else str(v) for v in values]
    assert column.tolist() == expected
  else:
    limit = 1 << 63
    expected = np.array(
        [np.nan if v is None or abs(v) > limit else float(v) for v in values]
    )
    np.testing.assert_array_equal(column, expected)


def test_what_is_neither_number_nor_short_text_is_counted():
  words, blob = columns.encode("x", [[1], {"a": 1}, "t" * 257, None, 5])
  assert (words["left_out"], words["filled"]) == (3, 1)
  assert np.isnan(columns.decode(words, blob, 5)[:4]).all()


def test_a_damaged_column_is_refused():
  words, blob = columns.encode("x", ["a", "b"])
  for change in ({"bytes": 1 << 50}, {"kind": "O"}, {"bytes": 3}):
    with pytest.raises(ValueError):
      columns.decode(words | change, blob, 2)


def test_values_are_picked_as_samples_pass():
  picker = columns.Picker(["width", "a.b", "c.d"])
  picker.add(0, b'{"width": 5, "a": {"b": "x"}, "c.d": 1}')
  picker.add(2, b'{"a": 3}')
  picker.add(3, b"not JSON")
  picker.add(4, b"[1]")
  picker.add(5, b"[" * 100_000)
  assert picker.column("width", [0, 1, 2]) == [5, None, None]
  assert picker.column("a.b", [2, 0]) == [None, "x"]
  assert picker.column("c.d", [0]) == [1]
  assert picker.bad == 3
  assert list(picker.fields) == ["width", "a", "c.d"]


@pytest.fixture
def shard(tmp_path):
  """A shard's path, with a parquet beside it as img2dataset writes it."""

  rows = {
      "key": ["0002", "0000", "0001"],
      "status": ["success", "success", "failed_to_download"],
      "similarity": [0.5, 0.25, None],
  }
  parquet.write_table(pa.table(rows), tmp_path / "00000.parquet")
  return str(tmp_path / "00000.tar")


def test_columns_beside_a_shard_are_joined_by_key(shard):
  keys = ["0000", "a/0002", "0001", "0009"]
  assert columns.beside(shard, ["similarity", "other"], keys) == {
      "similarity": [0.25, 0.5, None, None]
  }
  assert not columns.beside(shard, ["other"], keys)
  assert not columns.beside(shard + "x/b.tar", ["similarity"], keys)


def test_a_parquet_that_cannot_be_read_is_named(shard, tmp_path):
  (tmp_path / "00000.parquet").write_bytes(b"PAR1")
  with pytest.raises(UserError, match="00000.parquet must be a parquet file"):
    columns.beside(shard, ["similarity"], ["0000"])
