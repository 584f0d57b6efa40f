"""Training and evaluation batches; their order depends only on (seed, step).

Examples are shuffled, preprocessed and batched as a random-access Grain data
set, so the batch of a step is found by its index. It is the same for any number
of processes, threads and worker processes of the loader, and after any restart.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib

from absl import flags
from absl import logging
import grain
import numpy as np

from siglip_jax.data.cache import Cache
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import Record
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

Batch = dict[str, np.ndarray]
_TRIES = 16
_BUFFER = 8  # batches


class _Load:
  """A loader of examples by source index; replaces unreadable examples."""

  def __init__(self, source: Source, pp: Preprocess, cache: Cache):
    self._source, self._pp, self._cache = source, pp, cache

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
    replaced, problem = -1, ""
    for _ in range(_TRIES):
      try:
        example = self._example(int(index), rng)
        return example | {"replaced": np.array(replaced, np.int32)}
      except (OSError, ImageError) as e:
        problem = f"{self._source.key(int(index))}: {e}"
        logging.warning("Replaced %s", problem)
        replaced = int(index) if replaced < 0 else replaced
        index = int(rng.integers(len(self._source)))
    raise UserError(
        f"{_TRIES} examples in a row could not be read; check the data. The"
        f" last one was {problem}."
    )

  def _example(self, index: int, rng: np.random.Generator) -> Record:
    record = self._cache.get(index)
    if record is None:
      record = self._source[index]
      with _naming(self._source, index):
        record = self._pp.begin(record)
      self._cache.put(index, record)
    with _naming(self._source, index):
      return self._pp.finish(record, rng)


@contextlib.contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
  """Puts the name of a record before what preprocessing says about it."""
  try:
    yield
  except UserError as e:
    raise UserError(f"{source.key(index)}: {e}") from None


def train_iterator(
    source: Source,
    pp: Preprocess,
    *,
    batch_size: int,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    start_example: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
    cache_mb: int = 0,
) -> Iterator[Batch]:
  """Iterates over this process's share of the training batches.

  Args:
    source: training data, reshuffled every epoch.
    pp: preprocessing.
    batch_size: examples in a batch of all processes.
    seed: seed of the order and of random preprocessing.
    total_steps: step to stop before.
    start_step: step to start at.
    start_example: number of examples that were read before `start_step`, in all
      processes and epochs; by default what steps of `batch_size` have read.
    process_index: this process's index.
    process_count: number of processes.
    num_threads: number of threads that read and preprocess.
    num_workers: number of worker processes of the loader that read and
      preprocess instead; each has `num_threads` threads.
    cache_mb: size of the cache in megabytes, in each worker process. It holds
      records as they are before `pp`'s first random operation, so that small
      data sets are decoded only once.

  Yields:
    The values that `pp` keeps, stacked, and "replaced": -1, or the index of the
    unreadable example that another one replaces.
  """
  _check(source, batch_size, process_count)
  local = batch_size // process_count
  steps = max(total_steps - start_step, 0)
  first = start_step * batch_size if start_example is None else start_example
  epochs = max(1, -(-(first + steps * batch_size) // len(source)))
  examples = (
      grain.MapDataset.range(len(source))
      .seed(seed)
      .shuffle()
      .repeat(epochs)
      # Draws by the index in the whole stream, so it comes before any slice.
      .random_map(_Load(source, pp, Cache(cache_mb * 10**6)))
      .slice(slice(first, first + steps * batch_size))
  )
  # A global batch is `process_count` consecutive local batches.
  batches = examples.batch(local, batch_fn=_stack)
  mine = batches.slice(slice(process_index, None, process_count))
  return iterate(mine, num_threads, num_workers)


def iterate(
    batches: grain.MapDataset, num_threads: int, num_workers: int = 0
) -> Iterator[Batch]:
  """Iterates over batches read ahead in threads.

  If `num_workers` is not 0, that many worker processes of the loader read
  ahead, each with `num_threads` threads.
  """
  options = grain.ReadOptions(
      num_threads=num_threads,
      prefetch_buffer_size=max(num_threads, _BUFFER),  # a place for each thread
  )
  dataset = batches.to_iter_dataset(options)
  if num_workers:
    if not flags.FLAGS.is_parsed():  # as in a notebook
      flags.FLAGS.mark_as_parsed()  # Grain's worker processes get them
    dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=num_workers)
    )
  return iter(dataset)


class _LoadOnce:
  """A loader of evaluation examples by slot; slots past the end are padding."""

  def __init__(self, source: Source, pp: Preprocess):
    self._source, self._pp = source, pp

  def __call__(self, slot: int) -> Batch:
    index = min(int(slot), len(self._source) - 1)
    try:
      record = self._source[index]
      with _naming(self._source, index):
        image = self._pp(record, np.random.default_rng(0))["image"]
    except (OSError, ImageError) as e:
      raise UserError(
          f"{self._source.key(index)} cannot be read: {e}. Evaluation needs all"
          " images; repair or remove it."
      ) from None
    return {"image": image, "mask": np.array(slot < len(self._source))}


def eval_batches(
    source: Source,
    pp: Preprocess,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
) -> Iterator[Batch]:
  """Iterates over this process's share of the evaluation batches.

  The batches hold each example once, in order. `num_threads` and `num_workers`
  are those of `train_iterator`.

  Yields:
    "image", as `pp` makes it, and "mask", which is False for padding. Padding
    repeats the last example.

  Raises:
    UserError: when an image cannot be read; evaluation replaces no examples.
  """
  _check(source, batch_size, process_count)
  steps = -(-len(source) // batch_size)
  local = batch_size // process_count
  slots = grain.MapDataset.range(steps * batch_size)
  batches = slots.map(_LoadOnce(source, pp)).batch(local, batch_fn=_stack)
  mine = batches.slice(slice(process_index, None, process_count))
  return iterate(mine, num_threads, num_workers)


def _stack(examples: Sequence[Batch]) -> Batch:
  batch = {}
  for key in examples[0]:
    values = [np.asarray(e[key]) for e in examples]
    shapes = sorted({v.shape for v in values})
    if len(shapes) > 1:
      raise UserError(
          f"The {key!r} of a batch must have one shape; got {shapes}. End the"
          " preprocessing of images in resize or a crop."
      )
    batch[key] = np.stack(values)
  return batch


def _check(source: Source, batch_size: int, process_count: int) -> None:
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  if batch_size % process_count:
    raise UserError(
        "config.batch_size must divide over the processes: expected a multiple"
        f" of {process_count}, got {batch_size}."
    )
