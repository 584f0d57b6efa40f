"""Lists of keys: read from files, and looked up in columns."""

import numpy as np
import pytest

from siglip_jax.data.tables import filters
from siglip_jax.errors import UserError

UIDS = [f"{i:016x}{7 * i:016x}" for i in (3, 3 << 40, 2**64 // 7, 9, 9)]


def pairs(uids):
  numbers = [(int(u[:16], 16), int(u[16:], 16)) for u in uids]
  return np.array(numbers, "u8,u8")


def save(path, array):
  np.save(path, array)
  return filters.load(path)


def isin(keys, values):
  return keys.isin(values).tolist()


@pytest.mark.parametrize("order", [np.sort, np.asarray, np.flip])
def test_uids_are_pairs_of_numbers_as_datacomp_has_them(tmp_path, order):
  keys = save(tmp_path / "a.npy", order(pairs(UIDS)))
  column = [UIDS[1], "f" * 32, UIDS[3].upper(), None, "no uid", UIDS[0][:-1]]
  expected = [True, False, True, False, False, False]
  assert isin(keys, np.array(column, object)) == expected
  assert isin(keys, np.array([UIDS[2], "0" * 32])) == [True, False]
  assert isin(keys, pairs([UIDS[4], "1" * 32])) == [True, False]
  assert len(keys) == 5


def test_uids_are_found_as_a_set_finds_them(tmp_path, monkeypatch):
  monkeypatch.setattr(filters, "_ROWS", 100)
  rng = np.random.default_rng(0)
  # Small first halves, so that many keys differ in the second alone.
  numbers = rng.integers(0, 9, (700, 2), np.uint64)
  numbers[:, 1] += np.uint64(2**63)
  uids = [f"{a:016x}{b:016x}" for a, b in numbers.tolist()]
  keys = save(tmp_path / "a.npy", pairs(uids[:40]))
  known = set(uids[:40])
  column = np.array(uids, object)
  assert isin(keys, column) == [uid in known for uid in uids]


def test_two_columns_of_numbers_are_pairs(tmp_path):
  array = np.array([[3, 4], [1, 2]], np.uint64)
  keys = save(tmp_path / "a.npy", array)
  column = np.array([f"{1:016x}{2:016x}", f"{2:016x}{1:016x}"])
  assert isin(keys, column) == [True, False]


@pytest.mark.parametrize("name", ["a.npy", "a.txt"])
def test_texts_are_looked_up(tmp_path, name):
  path, texts = tmp_path / name, ["key b", "é", "a" * 64]
  if name == "a.txt":
    path.write_text("\ufeff" + "\r\n".join(texts) + "\n\n", encoding="utf-8")
    keys = filters.load(path)
  else:
    keys = save(path, np.array(texts))
  column = ["é", "a" * 63, "a" * 65, "key b", None, "a" * 64, ""]
  expected = [True, False, False, True, False, True, False]
  assert isin(keys, np.array(column, object)) == expected
  assert isin(keys, np.array(["é", "e"])) == [True, False]


def test_numbers_are_compared_as_whole_ones(tmp_path):
  keys = save(tmp_path / "a.npy", np.array([2**53 + 1, 5, -3]))
  assert isin(keys, np.array([2**53, 5, -3, 2**53 + 1])) == [False] + [True] * 3
  unsigned = np.array([2**64 - 3, 5], np.uint64)
  assert isin(keys, unsigned) == [False, True]
  keys = save(tmp_path / "b.npy", unsigned)
  assert isin(keys, np.array([-3, 5])) == [False, True]
  assert isin(keys, np.array([5, 6], np.uint8)) == [True, False]


def test_an_empty_list_holds_nothing(tmp_path):
  (tmp_path / "a.txt").write_text("\n")
  assert (
      isin(filters.load(tmp_path / "a.txt"), np.array(["", "a"])) == [False] * 2
  )
  for array in (np.zeros(0, np.int64), np.zeros(0, "u8,u8"), np.zeros(0, "U3")):
    keys = save(tmp_path / "a.npy", array)
    column = {"i": np.array([1]), "V": np.array(["1" * 32])}
    assert isin(keys, column.get(array.dtype.kind, np.array(["a"]))) == [False]


def test_numbers_of_rows_say_which_data_they_are_of(tmp_path):
  filters.write_rows(tmp_path / "a.txt", np.array([7, 2]), "0123456789ab")
  keys = filters.load(tmp_path / "a.txt")
  assert keys.digest == "0123456789ab"
  assert isin(keys, np.arange(9)) == [i in (2, 7) for i in range(9)]
  (tmp_path / "a.txt").write_text("# siglip_jax rows of 0123456789ab\n1\nx\n")
  with pytest.raises(UserError, match="number of a row in each line: .*'x'"):
    filters.load(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "array, column, match",
    [
        (np.array(["a"]), np.array([1, 2]), "need a column of texts; .* as 1"),
        (np.array([1]), np.array(["a"], object), "whole numbers; .* as 'a'"),
        (np.array([1]), np.array([1.5]), "whole numbers; .* as 1.5"),
        (pairs(UIDS), np.array(["0001", "0002"]), "32 hexadecimal .* '0001'"),
        (pairs(UIDS), np.array([1, 2]), "32 hexadecimal .* as 1"),
        (pairs(UIDS), np.array([None, "x"], object), "32 hexad.* as 'x'"),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path, array, column, match):
  keys = save(tmp_path / "a.npy", array)
  with pytest.raises(UserError, match=match):
    keys.isin(column)


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("a.csv", b"x", "is a .npy file, or a .txt file"),
        ("a.npy", b"x", "cannot be read"),
        ("a.npy", b"", "cannot be read"),
        ("none.npy", None, "There is no list of keys"),
        ("none.txt", None, "There is no list of keys"),
        ("a.txt", b"ab\n" + b"x" * 600, "line 2 has 600: "),
        ("a.npy", np.zeros((2, 3)), r"holds float64 of shape \(2, 3\)"),
        ("a.npy", np.zeros(3), "holds float64"),
        ("a.npy", np.zeros(2, ">u8,>u8"), "pairs of uint64"),
        ("a.npy", np.array([{}], object), "cannot be read: .*Python objects"),
    ],
)
def test_files_that_hold_no_keys_are_refused(tmp_path, name, content, match):
  path = tmp_path / name
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    np.save(path, content)
  with pytest.raises(UserError, match=match):
    filters.load(path)


def test_a_column_without_values_has_no_key(tmp_path):
  keys = save(tmp_path / "a.npy", pairs(UIDS))
  assert isin(keys, np.array([None, None], object)) == [False, False]


def test_a_sorted_list_stays_on_the_disk(tmp_path):
  keys = save(tmp_path / "a.npy", np.arange(5))
  assert isinstance(keys.sorted, np.memmap)
