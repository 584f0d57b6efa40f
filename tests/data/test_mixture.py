"""The sources of a mixture have exact shares, and epochs of their own."""

from collections import Counter
import itertools
import pickle

import numpy as np
import pytest

from siglip_jax.data import order as order_lib
from siglip_jax.data.images import ImageError
from siglip_jax.data.mixture import Mixture
from siglip_jax.data.mixture import Part
from siglip_jax.errors import UserError

STARTS = np.cumsum([0, *[7, 3, 13, 5, 9, 30, 2, 2, 8, 11] * 20])


class Numbers:
  """A source of numbers with a name, in blocks if it is told so."""

  def __init__(self, name, count=None, starts=None, fetched=False):
    self.name, self.count = name, count
    if starts is not None:
      self.count, self.block_starts = int(starts[-1]), starts
    if fetched:
      self.write_block = lambda block, path: path.write_text(f"{name} {block}")
      self.block_bytes = lambda block: 10 + block

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index == 3:
      raise ImageError("it is torn")
    return {"image": b"", "text": [f"{self.name}{index}"]}

  def key(self, index):
    return f"{self.name}[{index}]"

  def digest(self):
    return self.name * 12


class Drawing(Numbers):
  """A source whose texts are drawn."""

  def draw(self, record, rng):
    return record | {"text": f"{record['text'][0]} {rng.integers(10)}"}


def _mixture(**kwargs):
  return Mixture(
      [
          Part("a", 0.6, Numbers("a", starts=STARTS, **kwargs)),
          Part("b", 0.3, Drawing("b", 500)),
          Part("c", 0.1, Numbers("c", 50)),
      ]
  )


def _order(lanes, seed=3, **kwargs):
  spec = None if lanes == 1 else dict(lanes=lanes, window=3)
  source = _mixture(**kwargs)
  return order_lib.make(source, seed=seed, order=spec, batch_size=64)


@pytest.mark.parametrize("lanes", [1, 64])
def test_shares_are_exact_over_a_million_positions_and_after_any_resume(lanes):
  order = _order(lanes)
  total = 1_000_000
  for start in (0, 123_456 * lanes):
    counts = np.subtract(order.counts(start + total), order.counts(start))
    assert np.abs(counts / total / [0.6, 0.3, 0.1] - 1).max() < 1e-3


@pytest.mark.parametrize("lanes", [1, 4])
def test_counts_are_those_of_the_positions(lanes):
  order = _order(lanes)
  for total in (0, 7, 5000):
    parts = Counter(order.at(p)[0] for p in range(total))
    assert order.counts(total) == [parts[p] for p in range(3)]


def test_short_stretches_have_their_shares_too():
  order = _order(64)
  for begin in range(0, 64 * 200, 64):
    parts = Counter(order.at(p)[0] for p in range(begin, begin + 64))
    assert [abs(parts[p] - 64 * w) < 2 for p, w in enumerate((0.6, 0.3, 0.1))]


@pytest.mark.parametrize("lanes", [1, 4])
def test_each_part_has_its_own_epochs(lanes):
  order = _order(lanes)
  own = [order.at(p) for p in range(20_000)]
  largest = [q for part, q in own if part == 0]
  epoch = order.orders[0].epoch
  assert sorted(largest[:epoch]) == list(range(epoch))
  smallest = Counter(order.orders[2].index(q) for part, q in own if part == 2)
  assert set(smallest) == set(range(50))
  assert max(smallest.values()) - min(smallest.values()) <= 2


def test_the_order_of_a_part_does_not_depend_on_the_others():
  alone = Mixture([Part("b", 1.0, Drawing("b", 500))])
  alone = order_lib.make(alone, seed=3)
  order = _order(1)
  mixed = [
      order.orders[1].index(q) for p, q in map(order.at, range(900)) if p == 1
  ]
  assert mixed == [alone.index(p) for p in range(len(mixed))]


def test_windows_are_at_the_turns_of_the_mixture():
  order = _order(4, fetched=True)
  blocks = lambda index: int(np.searchsorted(STARTS, index, side="right")) - 1
  for lane in range(4):
    for window in itertools.islice(order._windows(0, lane, 7), 20):
      positions = [t * 4 + lane for t in range(window.first, window.last + 1)]
      mine = [order.index(p) for p in positions if order.at(p)[0] == 0]
      assert order.at(positions[0])[0] == order.at(positions[-1])[0] == 0
      assert window.blocks == tuple(dict.fromkeys(map(blocks, mine)))


def test_records_names_and_texts_are_those_of_the_parts():
  source = pickle.loads(pickle.dumps(_mixture()))
  start = int(STARTS[-1])
  assert len(source) == start + 550
  assert [source.part_of(i) for i in (0, start, start + 500)] == [0, 1, 2]
  assert source.key(start + 501) == "c[1]"
  rng = np.random.default_rng(0)
  plain, drawn = (source.draw(source[i], rng) for i in (5, start + 5))
  assert plain == {"image": b"", "text": ["a5"]}
  assert drawn["text"].startswith("b5 ")
  with pytest.raises(ImageError):
    source[start + 3]


def test_substitutes_come_from_the_same_part():
  source, rng = _mixture(), np.random.default_rng(0)
  start = int(STARTS[-1])
  drawn = {source.substitute(start + 7, rng) for _ in range(2000)}
  assert drawn <= set(range(start, start + 500)) and len(drawn) > 450


def test_records_of_two_parts_share_no_image():
  ids = _mixture().image_ids()
  assert len(ids) == len(_mixture()) and ids[5] != ids[int(STARTS[-1]) + 5]


def test_the_digest_covers_weights_names_and_data():
  one = lambda **k: Part(
      **(dict(name="a", weight=1, source=Numbers("a", 9)) | k)
  )
  parts = [one(), one(name="b"), one(weight=2), one(source=Numbers("c", 9))]
  digests = {
      Mixture([part, Part("z", 1, Numbers("z", 5))]).digest() for part in parts
  }
  assert len(digests) == 4


def test_only_blocks_that_must_be_fetched_are(tmp_path):
  assert not hasattr(_mixture(), "write_block")
  source = Mixture(
      [Part("x", 1, Numbers("x", starts=STARTS)), *_mixture(fetched=True).parts]
  )
  source.write_block(203, tmp_path / "block")
  assert (tmp_path / "block").read_text() == "a 3"
  assert source.block_bytes(203) == 13
  made = order_lib.make(source, seed=3, order=dict(lanes=4, window=3))
  windows = itertools.islice(made.schedule(range(4), 0), 200)
  assert min(b for window in windows for b in window.blocks) >= 200


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), "half"])
def test_weights_must_be_positive(weight):
  with pytest.raises(UserError, match="positive weight; a has"):
    Mixture([Part("a", weight, Numbers("a", 5))])


def test_names_must_differ_and_parts_must_hold_something():
  part = Part("a", 1, Numbers("a", 5))
  with pytest.raises(UserError, match="different names.*`title`"):
    Mixture([part, part])
  with pytest.raises(UserError, match="a is empty"):
    Mixture([Part("a", 1, Numbers("a", 0))])
