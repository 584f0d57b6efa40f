"""The rows of row groups that are read."""

import numpy as np

from siglip_jax.data.tables import choice
from siglip_jax.data.tables.footers import Footers


def footers(*files):
  """Row groups of files, each a list of numbers of rows."""
  counts = [len(rows) for rows in files]
  rows = np.array([n for rows in files for n in rows])
  return Footers(
      paths=tuple(f"/x/{i}.parquet" for i in range(len(files))),
      sizes=(1,) * len(files),
      etags=("",) * len(files),
      schema=None,
      files=np.repeat(np.arange(len(files)), counts),
      numbers=np.concatenate([np.arange(count) for count in counts]),
      rows=rows,
      columns=(),
      group_bytes=rows,
      digest="",
  )


def test_rows_are_found_by_index_whatever_was_selected():
  rng = np.random.default_rng(0)
  opened = footers([5, 0, 13, 1], [9, 30])
  select = rng.random(58) < 0.4
  rows = choice.choose(opened, "all", select)
  begins = np.cumsum(opened.rows) - opened.rows
  places = [rows.of(i) for i in range(int(rows.starts[-1]))]
  expected = np.flatnonzero(select).tolist()
  assert [int(begins[group]) + row for group, row in places] == expected
  assert rows.numbers().tolist() == expected
  assert np.all(np.diff(rows.starts) > 0)
  assert rows.numbers([3, 0]).tolist() == [expected[3], expected[0]]
  some = rows.selected(np.arange(len(expected)) % 3 == 1)
  assert some.numbers().tolist() == expected[1::3]


def test_no_selection_needs_no_bits():
  rows = choice.choose(footers([5, 0, 13]), "all", None)
  assert rows.bits is None and rows.numbers([17, 3]).tolist() == [17, 3]
  assert rows.blocks.tolist() == [0, 2] and rows.starts.tolist() == [0, 5, 18]
  assert rows.of(17) == (2, 12) and rows.place(5) == (1, 0)


def test_a_twentieth_is_in_validation_and_stays_there_when_rows_come():
  few = choice.choose(footers([3000]), "validation", None).numbers()
  more = choice.choose(
      footers([1000, 9000], [10]), "validation", None
  ).numbers()
  assert 100 < len(few) < 200 and 400 < len(more) < 600
  assert few.tolist() == more[more < 3000].tolist()


def test_a_selection_is_of_the_rows_of_its_split():
  opened = footers([30, 70], [100])
  train = choice.choose(opened, "train", None).numbers()
  select = np.arange(len(train)) % 5 == 2
  some = choice.choose(opened, "train", select)
  assert some.numbers().tolist() == train[2::5].tolist()
