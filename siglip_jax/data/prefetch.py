"""Prefetching of batches, in threads and to devices."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import os
from typing import Any

import jax
import numpy as np


def batches(
    load: Callable[[Any], np.ndarray], items: Sequence | np.ndarray, size: int
) -> Iterator[np.ndarray]:
  """Yields stacks of `load(item)` in order; the last batch may be smaller.

  The next batch is loaded while the current one is used. No more batches are
  held in memory, however many items there are. Exceptions from `load` are
  raised here.
  """
  starts = iter(range(0, len(items), size))
  queue: collections.deque = collections.deque()
  with futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:

    def begin() -> None:
      start = next(starts, None)
      if start is not None:
        part = items[start : start + size]
        queue.append([pool.submit(load, item) for item in part])

    begin()
    try:
      while queue:
        begin()
        yield np.stack([f.result() for f in queue.popleft()])
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def to_device(
    batches: Iterable[Mapping], to: jax.sharding.Sharding, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Yields local batches as global arrays, keeping `ahead` in flight.

  JAX copies a batch to the devices while the next ones are read, or uses it
  where it lies. It refers to the batch until then, and nothing here does, so
  that the loader knows when it may use the memory again.
  """
  queue: collections.deque = collections.deque()
  for batch in batches:
    queue.append(_put(batch, to))
    del batch
    if len(queue) > ahead:
      yield queue.popleft()
  while queue:
    yield queue.popleft()


def _put(
    batch: Mapping[str, np.ndarray], to: jax.sharding.Sharding
) -> dict[str, jax.Array]:
  """Returns the global batch of which a process has these rows."""
  image = batch["image"].reshape(len(batch["image"]), -1)
  local = dict(batch, image=image)  # rows of bytes: see make_train_step
  return {
      k: jax.make_array_from_process_local_data(to, local[k])
      for k in ("image", "text", "replaced")
  }
