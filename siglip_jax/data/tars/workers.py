"""Processes that work on jobs side by side, and end with their parent."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import process
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

from siglip_jax.errors import TryAgain

_MOST = 32  # processes by default: each may hold 100 MB
_LOOK = 0.5  # seconds between looks at the parent


def run(
    function: Callable[[Any], Any], jobs: Sequence[Any], processes: int | None
) -> Iterator[Any]:
  """Yields the results of a function in the order of the jobs.

  Args:
    function: a function of a module, called with each job.
    jobs: what it is called with; small, as they are sent to the processes.
    processes: number of processes, by default one for each core, but
      not over 32. One is this process itself.

  Raises:
    TryAgain: a process was killed.
    Exception: what the function raised. Jobs that nobody works on are given up.
  """
  processes = min(processes or min(os.cpu_count() or 1, _MOST), len(jobs))
  if processes <= 1:
    yield from map(function, jobs)
    return
  pool = futures.ProcessPoolExecutor(
      processes,
      # No fork: the threads of obstore would not be in it.
      mp_context=multiprocessing.get_context("spawn"),
      initializer=_follow,
      initargs=(os.getpid(),),
  )
  try:
    yield from pool.map(function, jobs)
  except process.BrokenProcessPool:
    raise TryAgain(
        "A worker process was killed, perhaps for lack of memory. Run the same"
        " command again with fewer --workers: it goes on where it was."
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


def _follow(parent: int) -> None:
  """Leaves signals of the terminal to the parent, and ends when it does."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
  while os.getppid() == parent:
    time.sleep(_LOOK)
  os._exit(1)
