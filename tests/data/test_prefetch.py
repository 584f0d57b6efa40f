"""Batches made ahead: in order, few at a time, errors where they belong."""

import threading

import numpy as np
import pytest

from siglip_jax.data import prefetch


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_every_item_comes_once_and_in_order(count):
  found = list(prefetch.batches(lambda i: np.array([i, -i]), range(count), 4))
  assert [len(b) for b in found[:-1]] == [4] * ((count - 1) // 4)
  np.testing.assert_array_equal(
      np.concatenate(found), [[i, -i] for i in range(count)]
  )


def test_one_batch_is_made_while_another_is_used_and_no_more():
  made, second = [], threading.Event()

  def load(i):
    made.append(i)
    if len(made) == 8:
      second.set()
    return np.array(i)

  batches = prefetch.batches(load, range(100), 4)
  next(batches)
  assert second.wait(10)  # with nobody asking for it
  assert sorted(made) == list(range(8))
  next(batches)
  batches.close()
  assert len(made) <= 12


def test_what_loading_raises_is_raised_where_batches_are_used():
  def load(i):
    return np.array(1 // (5 - i))

  batches = prefetch.batches(load, range(100), 4)
  assert len(next(batches)) == 4
  with pytest.raises(ZeroDivisionError):
    next(batches)
