"""The examples of training and of evaluations, as the loader reads them."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

from absl import logging
import grain
import numpy as np

from siglip_jax.data import sources
from siglip_jax.data.cache import Cache
from siglip_jax.data.images import ImageError
from siglip_jax.data.loader.chunks import Begun
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import Record
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

_TRIES = 16


@dataclasses.dataclass(frozen=True)
class Share:
  """A process's rows of the batches of a run.

  Row r of the batch of all processes belongs to lane r * lanes // batch_size:
  each lane has consecutive rows, and each process has whole lanes.

  Attributes:
    first: number of examples that were read before the first batch.
    batches: number of batches.
    batch_size: number of rows in a batch of all processes.
    lanes: number of lanes of the order.
    process_index: the process.
    process_count: number of processes.

  Raises:
    UserError: the batch does not divide over the processes and the lanes.
  """

  first: int
  batches: int
  batch_size: int
  lanes: int = 1
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self):
    batch_size, count = self.batch_size, self.process_count
    if batch_size % count:
      raise UserError(
          "config.batch_size must divide over the processes: expected a"
          f" multiple of {count}, got {batch_size}."
      )
    if self.lanes == 1:
      return
    if batch_size % self.lanes or self.lanes % count:
      raise UserError(
          "config.data.order.lanes must divide config.batch_size, and the"
          f" processes the lanes; got {self.lanes} lanes, batch_size"
          f" {batch_size} and {count} processes."
      )
    if self.first % self.lanes:
      raise UserError(
          f"An order of {self.lanes} lanes must go on after a multiple of"
          f" {self.lanes} examples; the run has read {self.first}. Go on with"
          " the batch size of before, or take fewer lanes."
      )

  @property
  def rows(self) -> int:
    """The number of rows of this process in a batch."""
    return self.batch_size // self.process_count

  @property
  def my_lanes(self) -> range:
    """The lanes that this process reads."""
    count = self.lanes // self.process_count
    return range(self.process_index * count, (self.process_index + 1) * count)

  def turn(self, batch: int) -> int:
    """Returns a batch's first turn: how often each lane was read before."""
    return (self.first + batch * self.batch_size) // self.lanes

  def position(self, batch: int, row: int) -> int:
    """Returns the position in the order of one of this process's rows."""
    row += self.process_index * self.rows
    lane, turn = divmod(row, self.batch_size // self.lanes)
    return (self.turn(batch) + turn) * self.lanes + lane


class TrainingExamples:
  """The examples of training; others replace those that cannot be read.

  Args:
    source: the data.
    pp: preprocessing.
    cache: cache of records before the first random operation. Sources that
      draw something in each record do without.
    indices: position -> source index, with a seed.
    share: the rows to read.
  """

  def __init__(
      self,
      source: Source,
      pp: Preprocess,
      *,
      cache: Cache,
      indices: grain.MapDataset,
      share: Share,
  ):
    self._source, self._pp, self._share = source, pp, share
    self.batches, self.rows = share.batches, share.rows
    # Draws by the position in the whole stream. The generator is used again
    # once `_Load` returns.
    self._examples = indices.random_map(_Load(source, pp, cache))

  def begin(self, batch: int, row: int) -> Begun:
    """Reads an example, and draws all that is random in it."""
    begun = self._examples[self._share.position(batch, row)]
    assert begun is not None  # as in data sets that filter
    return begun

  def finish(self, begun: Sequence[Begun]) -> list[Record]:
    """Tokenizes the texts of examples."""
    return _finish(self._source, self._pp, begun)


class _Load:
  """A loader of examples by source index; replaces unreadable examples."""

  def __init__(self, source: Source, pp: Preprocess, cache: Cache):
    self._source, self._pp, self._cache = source, pp, cache

  def __call__(self, index: int, rng: np.random.Generator) -> Begun:
    index, replaced, problem = int(index), -1, ""
    for _ in range(_TRIES):
      try:
        record = self._record(index, rng)
        # Of more samples than that, counts by source are about right.
        number = np.int32(min(replaced, np.iinfo(np.int32).max))
        return Begun(record, index, {"replaced": number})
      except (OSError, ImageError) as e:
        problem = f"{self._source.key(index)}: {e}"
        logging.warning("Replaced %s", problem)
        replaced = index if replaced < 0 else replaced
        index = int(sources.substitute(self._source, index, rng))
    raise UserError(
        f"{_TRIES} examples in a row could not be read; check the data. The"
        f" last one was {problem}."
    )

  def _record(self, index: int, rng: np.random.Generator) -> Record:
    draw = getattr(self._source, "draw", None)
    record = None if draw else self._cache.get(index)
    if record is None:
      record = self._source[index]
      with _naming(self._source, index):
        record = self._pp.begin(draw(record, rng) if draw else record)
      if not draw:
        self._cache.put(index, record)
    with _naming(self._source, index):
      return self._pp.draw(record, rng)


class EvaluationExamples:
  """The images of an evaluation, each once and in order.

  Args:
    source: the data.
    pp: preprocessing.
    share: the rows to read. Rows past the end repeat the last example.
  """

  def __init__(self, source: Source, pp: Preprocess, share: Share):
    self._source, self._pp, self._share = source, pp, share
    self.batches, self.rows = share.batches, share.rows

  def begin(self, batch: int, row: int) -> Begun:
    """Reads an image.

    Raises:
      UserError: it cannot be read.
    """
    slot = self._share.position(batch, row)
    index = min(slot, len(self._source) - 1)
    try:
      record = self._source[index]
      with _naming(self._source, index):
        record = self._pp(record, np.random.default_rng(0))
    except (OSError, ImageError) as e:
      raise UserError(
          f"{self._source.key(index)} cannot be read: {e}. Evaluation needs all"
          " images; repair or remove it."
      ) from None
    mask = {"mask": np.bool_(slot < len(self._source))}
    return Begun({"image": record["image"]}, index, mask)

  def finish(self, begun: Sequence[Begun]) -> list[dict[str, Any]]:
    """Returns the images with their masks."""
    return [{**one.record, **one.beside} for one in begun]


def _finish(
    source: Source, pp: Preprocess, begun: Sequence[Begun]
) -> list[Record]:
  """Tokenizes; an error names the first record that has one."""
  try:
    records = pp.tokenize([one.record for one in begun])
  except UserError:
    for one in begun:
      with _naming(source, one.index):
        pp.tokenize([one.record])
    raise
  return [r | one.beside for r, one in zip(records, begun, strict=True)]


@contextlib.contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
  """Puts the name of a record before what preprocessing says about it."""
  try:
    yield
  except UserError as e:
    raise UserError(f"{source.key(index)}: {e}") from None
