"""A selection finds each of its samples in the shards' tables."""

import hashlib

import numpy as np
import pytest

from siglip_jax.data.tars.selection import Selection
from siglip_jax.data.tars.table import Table
from siglip_jax.errors import UserError

FULL, BARE = ("jpg", "txt"), ("jpg",)


def table(n: int, seed: int) -> Table:
  rng = np.random.default_rng(seed)
  return Table(
      layouts=[FULL, BARE],
      layout=rng.integers(0, 2, n).astype(np.uint8),
      start=np.arange(n, dtype=np.uint32),
      sizes=np.ones((n, 2), np.uint32),
      extra=None,
      validation=rng.random(n) < 0.3,
  )


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("split", ["all", "train", "validation"])
@pytest.mark.parametrize("layouts", [{FULL}, {FULL, BARE}], ids=len)
def test_samples_are_those_of_layouts_split_and_filter(
    layouts, split, filtered
):
  tables = [table(n, seed) for seed, n in enumerate((50, 0, 7, 31))]
  expected = []
  for shard, t in enumerate(tables):
    for row in range(len(t)):
      fits = t.layouts[t.layout[row]] in layouts
      part = "validation" if t.validation[row] else "train"
      if fits and split in ("all", part):
        expected.append((shard, row))
  lengths = np.bincount([s for s, _ in expected], minlength=4)
  select = None
  if filtered:
    select = np.random.default_rng(0).random(len(expected)) < 0.4
    expected = [e for e, kept in zip(expected, select, strict=True) if kept]
  selection = Selection(lengths, layouts=layouts, split=split, select=select)
  assert selection.starts[-1] == len(expected)
  found = []
  for index in range(len(expected)):
    shard, place = selection.locate(index)
    found.append((shard, int(selection.rows(shard, tables[shard])[place])))
  assert found == expected


def test_indices_outside_are_an_error():
  selection = Selection(np.array([2, 3]), layouts={FULL}, split="all")
  for index in (-1, 5):
    with pytest.raises(IndexError):
      selection.locate(index)


def test_a_filter_of_another_length_is_an_error():
  with pytest.raises(UserError, match="for each of 5 samples; got the shape"):
    Selection(
        np.array([2, 3]), layouts={FULL}, split="all", select=np.ones(4, bool)
    )


def test_a_digest_differs_with_what_is_selected():
  digests = set()
  for select in (None, [1, 1, 0], [1, 0, 1]):
    for split in ("all", "train"):
      given = None if select is None else np.array(select, bool)
      digest = hashlib.sha256()
      Selection(
          np.array([3]), layouts={FULL}, split=split, select=given
      ).add_to(digest)
      digests.add(digest.hexdigest())
  assert len(digests) == 6
