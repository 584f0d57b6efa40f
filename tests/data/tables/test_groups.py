"""Decoded row groups in memory and in files."""

import pyarrow as pa
import pytest

from siglip_jax.data.tables import groups


def table(first, count=5):
  numbers = range(first, first + count)
  return groups.tidy(
      pa.table(
          {
              "image": [
                  {"bytes": None if i % 3 == 1 else b"x" * i} for i in numbers
              ],
              "text": [f"t{i}" for i in numbers],
          }
      ),
      ["image", "bytes"],
      ["text"],
  )


def row(i):
  return [None if i % 3 == 1 else b"x" * i, f"t{i}"]


def test_files_have_the_rows_that_were_written(tmp_path):
  for block in range(3):
    groups.write(table(5 * block), tmp_path / str(block))
  files = groups.Files()
  rows = [
      files.row(i // 5, tmp_path / str(i // 5), i % 5)
      for i in (14, 0, 7, 3, 1, 13)
  ]
  assert rows == [row(i) for i in (14, 0, 7, 3, 1, 13)]


def test_rows_of_few_files_stay_in_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(groups, "_ROWS", 12)
  files = groups.Files()
  for block in range(4):
    groups.write(table(5 * block), tmp_path / str(block))
    assert files.row(block, tmp_path / str(block), 1) == row(5 * block + 1)
  assert list(files._files) == [2, 3] and files._rows == 10
  groups.write(table(0), tmp_path / "again")
  assert files.row(3, tmp_path / "again", 2) == row(2)
  assert files._rows == 10


def test_images_may_be_absent_in_all_of_a_file(tmp_path):
  nulls = pa.table({"image": pa.nulls(2), "text": ["a", "b"]})
  groups.write(groups.tidy(nulls, ["image"], ["text"]), tmp_path / "0")
  assert groups.Files().row(0, tmp_path / "0", 1) == [None, "b"]
  groups.write(groups.tidy(nulls, ["image"], []), tmp_path / "1")
  assert groups.Files().row(1, tmp_path / "1", 1) == [None]


def test_memory_keeps_what_fits_and_the_last(monkeypatch):
  decoded = []
  memory = groups.Memory(lambda b: decoded.append(b) or table(5 * b))
  monkeypatch.setattr(groups, "_MEMORY", 2.5 * table(5).nbytes)
  assert [memory.row(b, 2) for b in (0, 1, 0, 2)] == [
      row(i) for i in (2, 7, 2, 12)
  ]
  assert decoded == [0, 1, 2]
  memory.row(1, 0)  # was not used for longest
  memory.row(2, 0)
  assert decoded == [0, 1, 2, 1]
  monkeypatch.setattr(groups, "_MEMORY", 0)
  memory.row(0, 0)
  memory.row(0, 1)
  assert decoded == [0, 1, 2, 1, 0]


def test_a_block_that_failed_is_tried_again():
  errors = [OSError("first"), None]

  def decode(block):
    if error := errors.pop(0):
      raise error
    return table(0)

  memory = groups.Memory(decode)
  with pytest.raises(OSError, match="first"):
    memory.row(0, 0)
  assert memory.row(0, 3) == row(3)
