"""Training and evaluation batches; their order depends only on (seed, step).

The place of an example in the order is found by its step and its row in the
batch (`order.py`), so a batch is the same for any number of processes, threads
and worker processes of the loader, and after any restart.
"""

from collections.abc import Iterator

import numpy as np

from siglip_jax.data import blocks
from siglip_jax.data import order as order_lib
from siglip_jax.data.cache import Cache
from siglip_jax.data.loader.batches import PREFETCH
from siglip_jax.data.loader.batches import Ahead
from siglip_jax.data.loader.batches import Batches
from siglip_jax.data.loader.examples import EvaluationExamples
from siglip_jax.data.loader.examples import Share
from siglip_jax.data.loader.examples import TrainingExamples
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

Batch = dict[str, np.ndarray]


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
    order: order_lib.OrderSpec = None,
    num_threads: int = 2,
    num_workers: int = 0,
    prefetch: int = PREFETCH,
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
    order: the order of the data, as of `order.make`.
    num_threads: number of threads that read and preprocess.
    num_workers: number of worker processes of the loader that read and
      preprocess instead; each has `num_threads` threads.
    prefetch: number of this process's batches that are read ahead. It holds two
      more in memory, whatever the number of threads and worker processes.
    cache_mb: size of the cache in megabytes, in each worker process. It holds
      records as they are before `pp`'s first random operation, so that small
      data sets are decoded only once.

  Yields:
    The values that `pp` keeps, stacked, and "replaced": -1, or the index of the
    unreadable example that another one replaces. A batch stays valid for as
    long as it is referred to (`Batches`).
  """
  _check(source, prefetch)
  examples_order = order_lib.make(
      source, seed=seed, order=order, batch_size=batch_size
  )
  share = Share(
      first=start_step * batch_size if start_example is None else start_example,
      batches=max(total_steps - start_step, 0),
      batch_size=batch_size,
      lanes=examples_order.lanes,
      process_index=process_index,
      process_count=process_count,
  )
  ahead = _read_ahead(source, examples_order, share)
  examples = TrainingExamples(
      source,
      pp,
      cache=Cache(cache_mb * 10**6),
      indices=examples_order.indices,
      share=share,
  )
  return Batches(
      examples,
      num_threads=num_threads,
      num_workers=num_workers,
      prefetch=prefetch,
      ahead=ahead,
  )


def eval_batches(
    source: Source,
    pp: Preprocess,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
    prefetch: int = PREFETCH,
) -> Iterator[Batch]:
  """Iterates over this process's share of the evaluation batches.

  The batches hold each example once, in order. `num_threads`, `num_workers` and
  `prefetch` are those of `train_iterator`.

  Yields:
    "image", as `pp` makes it, and "mask", which is False for padding. Padding
    repeats the last example. A batch stays valid for as long as it is referred
    to (`Batches`).

  Raises:
    UserError: when an image cannot be read; evaluation replaces no examples.
  """
  _check(source, prefetch)
  share = Share(
      first=0,
      batches=-(-len(source) // batch_size),
      batch_size=batch_size,
      process_index=process_index,
      process_count=process_count,
  )
  return Batches(
      EvaluationExamples(source, pp, share),
      num_threads=num_threads,
      num_workers=num_workers,
      prefetch=prefetch,
  )


class _Blocks:
  """Blocks that are fetched ahead of a process's share of the batches."""

  def __init__(self, source: Source, order: order_lib.Order, share: Share):
    self._share = share
    self._ahead = blocks.start(
        source,
        order.schedule(share.my_lanes, share.turn(0)),
        **getattr(source, "blocks_options", {}),
    )

  def advance(self, batches: int) -> None:
    """Notes that this many batches were delivered."""
    self._ahead.advance(self._share.turn(batches))

  def close(self) -> None:
    """Ends the fetching."""
    self._ahead.close()


def _read_ahead(
    source: Source, order: order_lib.Order, share: Share
) -> Ahead | None:
  """Starts to fetch blocks, which the source reads from now on."""
  if not hasattr(source, "write_block") or not share.batches:
    return None
  return _Blocks(source, order, share)


def _check(source: Source, prefetch: int) -> None:
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  if prefetch < 1:
    raise UserError(
        "config.data.prefetch must be a positive whole number of batches; got"
        f" {prefetch}."
    )
