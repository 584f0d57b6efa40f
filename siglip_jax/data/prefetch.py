"""Batches made in threads, ahead of who wants them."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import os
from typing import Any

import numpy as np


def batches(
    load: Callable[[Any], np.ndarray], items: Sequence | np.ndarray, size: int
) -> Iterator[np.ndarray]:
  """Stacks of `load` of each item, in order; the last may be smaller.

  While a batch is used the next one is being made. No more are held, however
  many items there are. What `load` raises is raised here.
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
