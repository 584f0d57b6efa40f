"""Several sources mixed by weight, in an exact order.

Of any stretch of consecutive samples, each source has its share to within a few
samples. Each source has its own order and its own epochs, so that a small one
may be read ten times while a large one is read once.
"""

from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import math
from typing import Any

import grain
from jaxtyping import Int
import numpy as np

from siglip_jax.data import order as order_lib
from siglip_jax.data.blocks import Folder
from siglip_jax.data.lanes import OrderSpec
from siglip_jax.data.lanes import Window
from siglip_jax.errors import UserError

_PERIOD = 1 << 16  # samples, of which each source has a fixed number
_PART = "part of a mixture"  # key in records, until the text is drawn


@dataclasses.dataclass(frozen=True)
class Part:
  """A source of a mixture.

  Attributes:
    name: its name in metrics and messages.
    weight: its share of the samples, relative to the other parts.
    source: the source.
  """

  name: str
  weight: float | Any  # as a config has it, until it is checked
  source: Any


class Mixture:
  """A source of the records of several sources, one source after the other.

  An index is the index in a part plus the lengths of the parts before it, and
  likewise the number of a block.

  Args:
    parts: the parts.

  Attributes:
    parts: the parts.
    names: their names.
    firsts: name -> index of the part's first record.

  Raises:
    UserError: there are no parts, a weight is not a positive number, or two
      parts have one name.
  """

  def __init__(self, parts: Sequence[Part]):
    self.parts = tuple(parts)
    self.names = tuple(part.name for part in self.parts)
    if not self.parts or len(set(self.names)) < len(self.names):
      raise UserError(
          "config.data.mix must list sources of different names; got"
          f" {list(self.names)}. Tell them apart by `title`."
      )
    for part in self.parts:
      number = isinstance(part.weight, int | float)
      if not number or not 0 < part.weight < math.inf:
        raise UserError(
            "Each source of config.data.mix must have a positive weight;"
            f" {part.name} has {part.weight!r}."
        )
      if not len(part.source):
        raise UserError(f"config.data.mix: {part.name} is empty.")
    self._starts = np.cumsum([0, *(len(part.source) for part in self.parts)])
    self.firsts = dict(zip(self.names, self._starts.tolist(), strict=False))
    blocks = [len(_block_starts(part.source)) - 1 for part in self.parts]
    self._block_starts = np.cumsum([0, *blocks])
    if any(hasattr(part.source, "write_block") for part in self.parts):
      self.write_block, self.block_bytes = self._write_block, self._block_bytes
      self.use_blocks = self._use_blocks

  def __reduce__(self):
    """Pickles the parts."""
    return Mixture, (self.parts,)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    part, local = self._at(index)
    return self.parts[part].source[local] | {_PART: part}

  def key(self, index: int) -> str:
    """Returns the record's name in its source."""
    part, local = self._at(index)
    return self.parts[part].source.key(local)

  def part_of(self, index: int) -> int:
    """Returns the number of the part that holds a record."""
    return self._at(index)[0]

  def draw(
      self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns a record with the text that its source draws."""
    record = dict(record)
    source = self.parts[record.pop(_PART)].source
    return source.draw(record, rng) if hasattr(source, "draw") else record

  def substitute(self, index: int, rng: np.random.Generator) -> int:
    """Returns the index of another record of the same part."""
    part, local = self._at(index)
    source = self.parts[part].source
    if hasattr(source, "substitute"):
      local = source.substitute(local, rng)
    else:
      local = int(rng.integers(len(source)))
    return int(self._starts[part]) + local

  def image_ids(self) -> Sequence[Hashable]:
    """Returns one value for each record, equal where records share an image."""
    return _Ids(self)

  def digest(self) -> str:
    """Returns a digest of the parts' names, weights and data."""
    words = []
    for part in self.parts:
      own = getattr(part.source, "digest", None)
      data = own() if own else str(len(part.source))
      words.append((part.name, float(part.weight), data))
    return hashlib.sha256(repr(words).encode()).hexdigest()[:12]

  def mixed(self, *, seed: int, order: OrderSpec, batch_size: int) -> "Mixed":
    """Returns the order of the mixture; see `order.make`."""
    sources = [part.source for part in self.parts]
    if order is None and any(hasattr(s, "write_block") for s in sources):
      order = {}
    lanes = 1
    if order not in (None, "global"):
      lanes, window = order_lib.numbers(order, batch_size)
      order = {"lanes": lanes, "window": window}
    orders = []
    for part in self.parts:
      own = order if hasattr(part.source, "block_starts") else None
      # Its own seed, which does not depend on the parts beside it.
      digest = hashlib.sha256(f"{seed} {part.name}".encode()).digest()
      own_seed = int.from_bytes(digest[:4], "little")
      orders.append(order_lib.make(part.source, seed=own_seed, order=own))
    return Mixed(
        orders=tuple(orders),
        starts=tuple(self._starts.tolist()),
        block_starts=tuple(self._block_starts.tolist()),
        weights=tuple(float(part.weight) for part in self.parts),
        fetched=tuple(hasattr(s, "write_block") for s in sources),
        lanes=lanes,
        seed=seed,
    )

  def _at(self, index: int) -> tuple[int, int]:
    part = int(np.searchsorted(self._starts, index, side="right")) - 1
    return part, int(index) - int(self._starts[part])

  def _block_at(self, block: int) -> tuple[Any, int]:
    part = int(np.searchsorted(self._block_starts, block, side="right")) - 1
    return self.parts[part].source, block - int(self._block_starts[part])

  def _write_block(self, block: int, path) -> None:
    source, local = self._block_at(block)
    source.write_block(local, path)

  def _block_bytes(self, block: int) -> int:
    source, local = self._block_at(block)
    return source.block_bytes(local)

  def _use_blocks(self, folder: Folder) -> None:
    for part, start in zip(self.parts, self._block_starts, strict=False):
      if hasattr(part.source, "write_block"):
        part.source.use_blocks(folder.beginning(int(start)))


@dataclasses.dataclass(frozen=True)
class Mixed:
  """The order of a mixture.

  The parts take turns in a pattern that repeats. Lane l begins at its l-th
  place, so that each turn of all lanes holds the parts by their weights, too.
  Within a lane, a part's samples are numbered; sample m of lane l is the part's
  own position m * lanes + l.

  Attributes:
    orders: the orders of the parts.
    starts: index of each part's first record.
    block_starts: number of each part's first block.
    weights: weights of the parts.
    fetched: for each part, whether its blocks are fetched before they are read.
    lanes: number of lanes.
    seed: seed of the examples' generators.
  """

  orders: tuple[order_lib.Order, ...]
  starts: tuple[int, ...]
  block_starts: tuple[int, ...]
  weights: tuple[float, ...]
  fetched: tuple[bool, ...]
  lanes: int
  seed: int

  @property
  def epoch(self) -> int:
    """The number of samples after which each part was read once or more."""
    total = sum(self.weights)
    epochs = [
        math.ceil(order.epoch * total / weight)
        for order, weight in zip(self.orders, self.weights, strict=True)
    ]
    return max(epochs)

  @functools.cached_property
  def indices(self) -> grain.MapDataset:
    """The source indices by position."""
    return order_lib.by_position(self, self.seed)

  def index(self, position: int) -> int:
    """Returns the source index of a position."""
    part, own = self.at(position)
    return self.starts[part] + self.orders[part].index(own)

  def at(self, position: int) -> tuple[int, int]:
    """Returns the part of a position, and the position in the part's order."""
    turn, lane = divmod(position, self.lanes)
    part, count = self._pattern.at(turn + lane)
    count -= self._pattern.before(part, lane)
    return part, count * self.lanes + lane

  def counts(self, samples: int) -> list[int]:
    """Returns how many of the first samples each part has."""
    turns, rest = divmod(samples, self.lanes)
    counts = [0] * len(self.orders)
    for lane in range(self.lanes):
      end = lane + turns + (lane < rest)
      for part in range(len(counts)):
        before = self._pattern.before
        counts[part] += before(part, end) - before(part, lane)
    return counts

  def windows(self, lane: int, turn: int) -> Iterator[Window]:
    """Yields a lane's windows of what is fetched from a turn on, endlessly."""
    return order_lib.in_time(
        self._windows(part, lane, turn)
        for part, fetched in enumerate(self.fetched)
        if fetched
    )

  def schedule(self, lanes: range, turn: int) -> Iterator[Window]:
    """Yields the windows of some lanes from a turn on, by their first turn."""
    return order_lib.in_time(self.windows(lane, turn) for lane in lanes)

  def _windows(self, part: int, lane: int, turn: int) -> Iterator[Window]:
    """Yields a part's windows, at the turns of the mixture."""
    skipped = self._pattern.before(part, lane)
    begin = self._pattern.before(part, lane + turn) - skipped
    for window in self.orders[part].windows(lane, begin):
      first, last = (
          self._pattern.place(part, count + skipped) - lane
          for count in (window.first, window.last)
      )
      blocks = tuple(self.block_starts[part] + b for b in window.blocks)
      yield Window(first, last, blocks)

  @functools.cached_property
  def _pattern(self) -> "_Pattern":
    return _Pattern.of(self.weights)


@dataclasses.dataclass(frozen=True)
class _Pattern:
  """An endless sequence of parts, of which each has its share throughout.

  Attributes:
    parts: the part at each place of a period.
    ranks: how many places before it in the period have the same part.
    places: for each part, its places in a period.
  """

  parts: Int[np.ndarray, " P"]
  ranks: Int[np.ndarray, " P"]
  places: tuple[Int[np.ndarray, " _"], ...]

  @classmethod
  def of(cls, weights: Sequence[float]) -> "_Pattern":
    """Returns the pattern of some weights, which it rounds to 1 / 65,536."""
    shares = np.array(weights) / sum(weights) * _PERIOD
    sizes = np.maximum(np.floor(shares), 1).astype(int)
    for part in np.argsort(sizes - shares, kind="stable"):
      sizes[part] += sizes.sum() < _PERIOD
    # Each part at equal distances.
    times = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    parts = numbers[np.argsort(times, kind="stable")]
    places = tuple(np.flatnonzero(parts == p) for p in range(len(sizes)))
    ranks = np.empty(len(parts), np.int64)
    for own in places:
      ranks[own] = np.arange(len(own))
    return cls(parts, ranks, places)

  def at(self, place: int) -> tuple[int, int]:
    """Returns the part at a place, and how often it comes before."""
    period, rest = divmod(place, len(self.parts))
    part = int(self.parts[rest])
    return part, period * len(self.places[part]) + int(self.ranks[rest])

  def before(self, part: int, place: int) -> int:
    """Returns how often a part comes before a place."""
    period, rest = divmod(place, len(self.parts))
    own = self.places[part]
    return period * len(own) + int(np.searchsorted(own, rest))

  def place(self, part: int, count: int) -> int:
    """Returns the place of a part that comes `count` times before."""
    own = self.places[part]
    period, rest = divmod(count, len(own))
    return period * len(self.parts) + int(own[rest])


class _Ids(Sequence):
  """The image ids of a mixture's records, by index."""

  def __init__(self, mixture: Mixture):
    self._mixture = mixture
    self._ids = [
        part.source.image_ids() if hasattr(part.source, "image_ids") else None
        for part in mixture.parts
    ]

  def __len__(self) -> int:
    return len(self._mixture)

  def __getitem__(self, index):
    part, local = self._mixture._at(index)
    ids = self._ids[part]
    return part, local if ids is None else ids[local]


def _block_starts(source) -> Int[np.ndarray, " N"]:
  return getattr(source, "block_starts", np.zeros(1, np.int64))
