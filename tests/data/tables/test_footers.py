"""Footers of Parquet files: what is opened, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq
import pytest

from siglip_jax.data.tables import footers
from siglip_jax.errors import UserError

TABLE = pa.table({"a": list(range(10)), "b": [f"{i}" * 100 for i in range(10)]})


def write(folder, *tables, rows=4):
  for i, table in enumerate(tables):
    pq.write_table(table, folder / f"{i}.parquet", row_group_size=rows)
  return f"{folder}/*.parquet"


def open_files(pattern, columns=("a",)):
  return footers.open_files(pattern, lambda schema: columns)


def test_row_groups_are_numbered_over_all_files(tmp_path):
  opened = open_files(write(tmp_path, TABLE, TABLE.slice(0, 5)))
  assert opened.rows.tolist() == [4, 4, 2, 4, 1]
  assert opened.files.tolist() == [0, 0, 0, 1, 1]
  assert opened.numbers.tolist() == [0, 1, 2, 0, 1]
  again = pickle.loads(pickle.dumps(opened))
  assert again.read(4).to_pydict() == {"a": [4]}
  assert [
      c.to_pylist() for c in again.column("a", np.array([2, 9, 10, 14]))
  ] == [
      [2, 9],
      [0, 4],
  ]
  more = open_files(f"{tmp_path}/*.parquet", ("a", "b"))
  assert more.group_bytes[0] > opened.group_bytes[0] + 4


def test_columns_that_are_needed_must_be_the_same_in_all_files(tmp_path):
  other = pa.table({"a": ["x"], "c": [1]})
  pattern = write(tmp_path, TABLE, other)
  match = "'a' is int64 in .*0.parquet and string in .*1.parquet, .* has a, c"
  with pytest.raises(UserError, match=match):
    open_files(pattern)
  with pytest.raises(UserError, match="'b' is string .* and missing in"):
    open_files(pattern, ("b",))
  empty = pa.table({"a": pa.nulls(2)})  # of which no row has a value
  assert open_files(write(tmp_path, TABLE, empty)).rows.tolist()[-1] == 2


def test_files_that_are_no_parquet_files_are_named(tmp_path):
  (tmp_path / "a.parquet").write_bytes(b"no parquet" * 9)
  (tmp_path / "b.parquet").write_bytes(b"")
  for name in "ab":
    match = f"{name}.parquet must be a Parquet file"
    with pytest.raises(UserError, match=match):
      open_files(str(tmp_path / f"{name}.parquet"))
  with pytest.raises(UserError, match="none.parquet"):
    open_files(str(tmp_path / "none.parquet"))


def test_a_file_that_changed_is_told(tmp_path):
  opened = open_files(write(tmp_path, TABLE))
  other = dataclasses.replace(opened, rows=opened.rows + 1)
  with pytest.raises(UserError, match="0.parquet must not change during a run"):
    other.read(2)
  with pytest.raises(UserError, match="0.parquet must not change during a run"):
    dataclasses.replace(opened, numbers=opened.numbers + 1).read(2)


def test_errors_of_storage_stay_what_they_are(tmp_path, monkeypatch):
  opened = open_files(write(tmp_path, TABLE))
  opened.read(0)
  error = None

  def read(*args):
    raise error

  monkeypatch.setattr(opened._ranges, "read", read)
  for error in (OSError("gave up"), UserError("replaced")):
    with pytest.raises(type(error), match=str(error)):
      opened.read(1)


def test_a_row_group_is_few_reads(tmp_path):
  opened = open_files(write(tmp_path, TABLE), ("a", "b"))
  opened.read(0)
  sizes = []
  real = opened._ranges.read
  opened._ranges.read = lambda i, o, n: sizes.append(n) or real(i, o, n)
  opened.read(1)
  assert len(sizes) == 1
