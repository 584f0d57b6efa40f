"""A shuffle of blocks: an exact order that storage can serve in large reads.

Samples that lie together in a shard make a block. In each epoch the blocks are
permuted, put one after the other, and cut into `lanes` parts of equal length,
which are read side by side. A lane reads a window of consecutive blocks at a
time, whose samples are shuffled. So a process reads whole blocks, and a batch
still comes from `lanes` x `window` of them.

The order depends on the seed, the blocks and the numbers of lanes and of blocks
in a window. The processes divide the lanes among them; how many processes there
are changes nothing.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from jaxtyping import Int
import numpy as np

from siglip_jax.errors import UserError

# How a config says it: "global", or a dict of `lanes` and `window`.
OrderSpec = str | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Window:
  """A lane's samples that are shuffled together.

  Attributes:
    first: turn of the lane's first sample of it.
    last: turn of its last one.
    blocks: numbers of its blocks, in the order of their first use.
  """

  first: int
  last: int
  blocks: tuple[int, ...]


class Lanes:
  """An endless order of a source's samples, by lane and turn.

  A turn is one sample of each lane. The samples at an epoch's end that do not
  fill a turn, fewer than `lanes`, are left out of it.

  Args:
    starts: index of each block's first sample, and the number of samples.
    lanes: number of lanes.
    window: number of blocks in a window.
    seed: seed of the order.

  Attributes:
    lanes: number of lanes.
    turns: number of turns in an epoch.

  Raises:
    UserError: there are fewer samples than lanes.
  """

  def __init__(
      self,
      starts: Int[np.ndarray, " N"],
      *,
      lanes: int,
      window: int,
      seed: int,
  ):
    if lanes < 1 or window < 1:
      raise UserError(
          "config.data.order needs positive numbers of lanes and of blocks in a"
          f" window; got lanes={lanes}, window={window}."
      )
    self._starts = np.asarray(starts, np.int64)
    self.lanes, self._window, self._seed = lanes, window, seed
    samples = int(self._starts[-1])
    self.turns = samples // lanes
    if not self.turns:
      raise UserError(
          f"The data must hold a sample for each of {lanes} lanes; there are"
          f" {samples}. Lower config.data.order.lanes."
      )
    self._epoch = functools.lru_cache(2)(self._shuffled)
    self._shuffle = functools.lru_cache(4 * lanes)(self._permutation)

  def __reduce__(self):
    """Pickles the arguments; caches are not worth sending."""
    make = functools.partial(
        Lanes, lanes=self.lanes, window=self._window, seed=self._seed
    )
    return make, (self._starts,)

  def index(self, lane: int, turn: int) -> int:
    """Returns the source index of a lane's sample at a turn."""
    number, turn = divmod(turn, self.turns)
    epoch = self._epoch(number)
    offset = lane * self.turns + turn
    begin, end, window = epoch.window(lane, offset)
    order = self._shuffle(number, lane, window, end - begin)
    return epoch.sample(begin + int(order[offset - begin]))

  def windows(self, lane: int, turn: int) -> Iterator[Window]:
    """Yields a lane's windows, from the one that holds a turn, endlessly."""
    while True:
      number, rest = divmod(turn, self.turns)
      epoch = self._epoch(number)
      offset = lane * self.turns + rest
      begin, end, window = epoch.window(lane, offset)
      order = self._shuffle(number, lane, window, end - begin)
      last = turn + end - 1 - offset
      used = epoch.blocks_at(begin + order[offset - begin :])
      _, firsts = np.unique(used, return_index=True)
      yield Window(turn, last, tuple(used[np.sort(firsts)].tolist()))
      turn = last + 1

  def _shuffled(self, number: int) -> "_Epoch":
    rng = _generator(self._seed, number)
    sizes = np.diff(self._starts)
    blocks = np.flatnonzero(sizes)
    blocks = blocks[rng.permutation(len(blocks))]
    return _Epoch(
        blocks=blocks,
        starts=self._starts[blocks],
        ends=np.cumsum(sizes[blocks]),
        turns=self.turns,
        lanes=self.lanes,
        size=self._window,
    )

  def _permutation(self, epoch: int, lane: int, window: int, size: int):
    rng = _generator(self._seed, epoch, lane, window)
    return rng.permutation(size).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class _Epoch:
  """The blocks of an epoch, one after the other; samples are offsets in them.

  Attributes:
    blocks: number of each block.
    starts: source index of its first sample.
    ends: offset after its last one.
    turns: number of samples of a lane.
    lanes: number of lanes.
    size: number of blocks in a window, at most.
  """

  blocks: Int[np.ndarray, " N"]
  starts: Int[np.ndarray, " N"]
  ends: Int[np.ndarray, " N"]
  turns: int
  lanes: int
  size: int

  def window(self, lane: int, offset: int) -> tuple[int, int, int]:
    """Returns where the window of an offset begins and ends, and its number."""
    left, right = lane * self.turns, (lane + 1) * self.turns
    first, block, last = map(int, self._at(np.array([left, offset, right - 1])))
    begin, end, number = self._dealt(lane, block - first, last - first + 1)
    return (
        max(left, self._begin(first + begin)),
        min(right, self._begin(first + end)),
        number,
    )

  def _dealt(self, lane: int, block: int, count: int) -> tuple[int, int, int]:
    """Returns the first block of a lane's window, its end, and its number.

    The lanes begin with windows of different sizes, so that they do not all
    need their next windows at the same time, which would double the room for
    blocks. After that, a lane's blocks are dealt to its windows evenly.

    Args:
      lane: number of the lane.
      block: number of a block in the lane.
      count: number of blocks in the lane.
    """
    short = lane * self.size // self.lanes if count > self.size else 0
    if block < short:
      return 0, short, 0
    rest = count - short
    windows = -(-rest // self.size)
    # Window w holds the blocks from w * rest // windows on.
    number = ((block - short + 1) * windows - 1) // rest
    begin, end = (short + n * rest // windows for n in (number, number + 1))
    return begin, end, number + bool(short)

  def sample(self, offset: int) -> int:
    """Returns the source index of an offset."""
    place = int(self._at(offset))
    return int(self.starts[place] + offset - self._begin(place))

  def blocks_at(self, offsets):
    """Returns the numbers of the blocks of some offsets."""
    return self.blocks[self._at(offsets)]

  def _at(self, offsets):
    return np.searchsorted(self.ends, offsets, side="right")

  def _begin(self, place: int) -> int:
    return int(self.ends[place - 1]) if place else 0


def _generator(*seeds: int) -> np.random.Generator:
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))
