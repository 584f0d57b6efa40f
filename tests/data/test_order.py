"""Orders are functions of (seed, position), for any number of processes."""

import itertools
import pickle

import grain
import numpy as np
import pytest

from siglip_jax.data import order
from siglip_jax.errors import UserError


class Blocks:
  """A source of numbers in blocks of five, which may have to be fetched."""

  def __init__(self, count, fetched=False):
    self.block_starts = np.arange(0, count + 1, 5)
    if fetched:
      self.write_block = None

  def __len__(self):
    return int(self.block_starts[-1])


class Plain:
  """A source of 100 numbers, without blocks."""

  def __len__(self):
    return 100


def test_the_global_order_is_grains_shuffle():
  made = order.make(Plain(), seed=3)
  expected = grain.MapDataset.range(100).seed(3).shuffle().repeat(3)
  assert [made.indices[i] for i in range(300)] == list(expected)
  assert [made.index(i) for i in (5, 250)] == [expected[5], expected[250]]
  assert (made.lanes, made.epoch) == (1, 100)
  assert not list(made.schedule(range(1), 0))


def test_data_that_are_fetched_have_lanes_by_default():
  assert order.make(Blocks(500), seed=0).lanes == 1
  fetched = Blocks(500, fetched=True)
  assert order.make(fetched, seed=0).lanes == 64
  # A divisor of the batch, so that every batch size works.
  assert order.make(fetched, seed=0, batch_size=48).lanes == 16
  assert order.make(Blocks(order.MANY + 5), seed=0).lanes == 64
  with pytest.raises(UserError, match="order='global' reads samples one by"):
    order.make(fetched, seed=0, order="global")


def test_lanes_have_indices_by_position():
  made = order.make(Blocks(500), seed=1, order=dict(lanes=4, window=2))
  assert made.epoch == 500
  indices = [made.indices[p] for p in range(500)]
  assert sorted(indices) == list(range(500))
  again = pickle.loads(pickle.dumps(made))
  assert [again.indices[p] for p in range(500)] == indices
  assert indices[4 * 7 + 2] == made.shuffle.index(2, 7)


def test_examples_have_a_generator_by_position():
  made = order.make(Blocks(500), seed=1, order=dict(lanes=4))
  drawn = made.indices.random_map(lambda i, rng: (i, int(rng.integers(10**9))))
  assert drawn[17] == drawn[17]
  assert len({drawn[p][1] for p in range(50)}) == 50


def test_the_schedule_of_lanes_is_in_time():
  made = order.make(Blocks(500), seed=1, order=dict(lanes=4, window=2))
  windows = list(itertools.islice(made.schedule(range(1, 3), 0), 40))
  firsts = [w.first for w in windows]
  assert firsts == sorted(firsts)
  own = [itertools.islice(made.windows(lane, 0), 9) for lane in (1, 2)]
  assert set(windows) >= set(itertools.chain.from_iterable(own))


@pytest.mark.parametrize(
    "bad, message",
    [
        ("shuffled", "must be 'global', or as dict"),
        (dict(lane=4), "positive whole numbers.*lane=4"),
        (dict(lanes=0), "lanes=0"),
        (dict(window=2.5), "window=2.5"),
        (dict(lanes=True), "lanes=True"),
    ],
)
def test_other_orders_are_refused(bad, message):
  with pytest.raises(UserError, match=message):
    order.make(Blocks(500), seed=0, order=bad)


def test_lanes_need_blocks_and_an_order_needs_data():
  with pytest.raises(UserError, match="data in blocks.*one by one .Plain"):
    order.make(Plain(), seed=0, order=dict(lanes=4))
  with pytest.raises(UserError, match="The data are empty"):
    order.make(Blocks(0), seed=0)
