"""The order in which training reads a source: a function of (seed, position).

There are two. The global order shuffles all samples, and suits data that can be
read one by one: folders, TFDS data sets, tars on a local disk. The order of
lanes (`lanes.py`) reads blocks of samples, and suits data in a bucket and
parquet.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import heapq
import math
import sys
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import grain

from siglip_jax.data.lanes import Lanes
from siglip_jax.data.lanes import OrderSpec
from siglip_jax.data.lanes import Window
from siglip_jax.errors import UserError

LANES = 64
WINDOW = 32  # blocks
# Samples in tars, of which each would be in another shard than the one before:
# an index of more does not stay in the memory of a process.
MANY = 10_000_000


@runtime_checkable
class Order(Protocol):
  """An endless order of a source's samples.

  A position is turn * lanes + lane: in each turn, every lane reads one sample.
  Row r of a batch of B rows belongs to lane r * lanes // B, so that a process
  reads its own lanes alone.
  """

  @property
  def lanes(self) -> int:
    """The number of lanes."""
    ...

  @property
  def epoch(self) -> int:
    """The number of samples in an epoch."""
    ...

  @property
  def indices(self) -> grain.MapDataset:
    """The source indices by position, at random access, with a seed."""
    ...

  def index(self, position: int) -> int:
    """Returns the source index of a position."""
    ...

  def windows(self, lane: int, turn: int) -> Iterator[Window]:
    """Yields the blocks that a lane reads from a turn on."""
    ...

  def schedule(self, lanes: range, turn: int) -> Iterator[Window]:
    """Yields the blocks that some lanes read from a turn on, in time."""
    ...


def make(
    source, *, seed: int, order: OrderSpec = None, batch_size: int = LANES
) -> Order:
  """Returns the order of a source.

  Args:
    source: the source; with `block_starts` for an order of lanes.
    seed: seed of the order.
    order: "global", or a dict with `lanes` and `window`. By default, a source
      that fetches its data by blocks has an order of lanes, as tars with more
      than ten million samples have, and others the global order.
    batch_size: examples in a batch of all processes. The default number of
      lanes is a divisor of it.

  Raises:
    UserError: the source has no blocks, or only blocks, or too few samples.
  """
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  if hasattr(source, "mixed"):
    return source.mixed(seed=seed, order=order, batch_size=batch_size)
  by_blocks = hasattr(source, "write_block")
  if order is None:
    many = hasattr(source, "block_starts") and len(source) > MANY
    order = {} if by_blocks or many else "global"
  if order == "global":
    if by_blocks:
      raise UserError(
          "config.data.order='global' reads samples one by one, which needs"
          " data on a local disk that are not parquet. Leave `order` out, or"
          " copy the data to this machine."
      )
    return Global(len(source), seed)
  lanes, window = numbers(order, batch_size)
  if not hasattr(source, "block_starts"):
    raise UserError(
        "An order of lanes needs data in blocks, tars or parquet; these are"
        f" read one by one ({type(source).__name__}). Leave config.data.order"
        " out."
    )
  shuffle = Lanes(source.block_starts, lanes=lanes, window=window, seed=seed)
  return Laned(shuffle, seed)


def numbers(order: str | Mapping[str, Any], batch_size: int) -> tuple[int, int]:
  """Returns the numbers of lanes and of blocks in a window.

  Raises:
    UserError: `order` is neither "global" nor a dict of them.
  """
  known = ("lanes", "window", "block_mb")
  if not isinstance(order, Mapping):
    raise UserError(
        "config.data.order must be 'global', or as dict(lanes=64, window=32,"
        f" block_mb=8); got {order!r}."
    )
  for key, value in order.items():
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key not in known or not whole or value < 1:
      raise UserError(
          "config.data.order takes positive whole numbers for lanes, window and"
          f" block_mb; got {key}={value!r}."
      )
  lanes = order.get("lanes", math.gcd(LANES, batch_size))
  return lanes, order.get("window", WINDOW)


@dataclasses.dataclass(frozen=True)
class Global:
  """An order that shuffles all samples in each epoch.

  Attributes:
    epoch: number of samples.
    seed: seed of the order.
  """

  epoch: int
  seed: int

  @property
  def lanes(self) -> int:
    """The number of lanes, one."""
    return 1

  @property
  def indices(self) -> grain.MapDataset:
    """The source indices by position."""
    return _shuffled(self.epoch, self.seed)

  def index(self, position: int) -> int:
    """Returns the source index of a position."""
    index = self.indices[position]
    assert index is not None, "only a filter leaves elements out"
    return int(index)

  def windows(self, lane: int, turn: int) -> Iterator[Window]:
    """Yields nothing: samples are read one by one."""
    del lane, turn
    return iter(())

  def schedule(self, lanes: range, turn: int) -> Iterator[Window]:
    """Yields nothing: samples are read one by one."""
    del lanes, turn
    return iter(())


@dataclasses.dataclass(frozen=True)
class Laned:
  """An order of lanes.

  Attributes:
    shuffle: the shuffle of blocks.
    seed: seed of the examples' generators.
  """

  shuffle: Lanes
  seed: int

  @property
  def lanes(self) -> int:
    """The number of lanes."""
    return self.shuffle.lanes

  @property
  def epoch(self) -> int:
    """The number of samples in an epoch."""
    return self.shuffle.lanes * self.shuffle.turns

  @property
  def indices(self) -> grain.MapDataset:
    """The source indices by position."""
    return by_position(self, self.seed)

  def index(self, position: int) -> int:
    """Returns the source index of a position."""
    turn, lane = divmod(position, self.lanes)
    return self.shuffle.index(lane, turn)

  def windows(self, lane: int, turn: int) -> Iterator[Window]:
    """Yields a lane's windows from a turn on, endlessly."""
    return self.shuffle.windows(lane, turn)

  def schedule(self, lanes: range, turn: int) -> Iterator[Window]:
    """Yields the windows of some lanes from a turn on, by their first turn."""
    return in_time(self.windows(lane, turn) for lane in lanes)


@functools.lru_cache(maxsize=64)  # `index` is called for each example
def _shuffled(count: int, seed: int) -> grain.MapDataset:
  return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def by_position(order: Any, seed: int) -> grain.MapDataset:
  """Returns `order.index` as an endless data set with a seed."""
  return grain.MapDataset.source(_Positions(order)).seed(seed)


def in_time(windows) -> Iterator[Window]:
  """Merges windows that are each in order by their first turn."""
  return heapq.merge(*windows, key=lambda window: window.first)


class _Positions:
  """A random-access source of `order.index(position)`."""

  def __init__(self, order: Any):
    self._order = order

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index) -> int:
    return self._order.index(int(index))
