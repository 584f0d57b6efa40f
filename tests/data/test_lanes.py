"""The shuffle of blocks is exact, local, and findable at any turn."""

import itertools
import pickle

import numpy as np
import pytest

from siglip_jax.data.lanes import Lanes
from siglip_jax.errors import UserError

# Blocks of many sizes; some are empty, as a filter may leave them.
SIZES = [7, 0, 3, 13, 5, 9, 30, 2, 0, 8, 11, 1] * 6
STARTS = np.cumsum([0, *SIZES])


def _lanes(lanes=4, window=3, seed=5, starts=STARTS):
  return Lanes(starts, lanes=lanes, window=window, seed=seed)


def _epoch(order, number):
  turns = range(number * order.turns, (number + 1) * order.turns)
  return [order.index(lane, t) for t in turns for lane in range(order.lanes)]


def _block(index):
  return int(np.searchsorted(STARTS, index, side="right")) - 1


@pytest.mark.parametrize("lanes, window", [(1, 1), (4, 3), (7, 100), (64, 2)])
def test_each_epoch_holds_every_sample_once_but_fewer_than_lanes(lanes, window):
  order = _lanes(lanes, window)
  for number in (0, 1, 5):
    indices = _epoch(order, number)
    assert len(set(indices)) == len(indices) > STARTS[-1] - lanes
    assert set(indices) <= set(range(STARTS[-1]))


def test_epochs_and_seeds_have_other_orders():
  orders = [_epoch(_lanes(seed=s), e) for s in (5, 6) for e in (0, 1)]
  equal = [
      np.mean(np.equal(a, b)) for a, b in itertools.combinations(orders, 2)
  ]
  assert max(equal) < 0.05
  assert _epoch(_lanes(), 1) == orders[1]


def test_a_lane_reads_one_window_of_blocks_at_a_time():
  order = _lanes(lanes=4, window=3)
  for lane in range(4):
    end = 0
    for window in itertools.islice(order.windows(lane, 0), 30):
      assert window.first == end
      turns = range(window.first, window.last + 1)
      used = [_block(order.index(lane, t)) for t in turns]
      assert window.blocks == tuple(dict.fromkeys(used))
      assert len(window.blocks) <= 3
      end = window.last + 1


def test_windows_from_within_one_name_what_is_left_of_it():
  order = _lanes(lanes=2, window=4)
  whole = next(order.windows(1, 0))
  middle = (whole.first + whole.last) // 2
  rest = next(order.windows(1, middle))
  assert (rest.first, rest.last) == (middle, whole.last)
  used = [_block(order.index(1, t)) for t in range(middle, whole.last + 1)]
  assert rest.blocks == tuple(dict.fromkeys(used))


def test_few_blocks_are_read_by_more_than_one_lane():
  order = _lanes(lanes=4, window=3)
  reads = sum(
      len(window.blocks)
      for lane in range(4)
      for window in itertools.takewhile(
          lambda w: w.last < order.turns, order.windows(lane, 0)
      )
  )
  assert reads <= np.count_nonzero(SIZES) + 4


def test_samples_within_a_window_are_shuffled():
  order = _lanes(lanes=1, window=100)
  first = np.array(_epoch(order, 0))
  assert np.mean(np.diff(first) == 1) < 0.05  # few neighbors stay so


def test_pickled_it_is_the_same():
  order = pickle.loads(pickle.dumps(_lanes()))
  assert _epoch(order, 2) == _epoch(_lanes(), 2)


def test_too_few_samples_and_numbers_are_refused():
  with pytest.raises(UserError, match="each of 9 lanes; there are 5"):
    _lanes(lanes=9, starts=np.array([0, 2, 5]))
  with pytest.raises(UserError, match="positive numbers.*window=0"):
    _lanes(window=0)
