"""Batches that threads or processes fill ahead of their use."""

from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import os
import queue
import threading
import time
from typing import Any
from typing import Protocol
from typing import runtime_checkable
import weakref

import numpy as np

from siglip_jax.data.loader import chunks
from siglip_jax.data.loader import ring as ring_lib
from siglip_jax.data.loader.chunks import Done
from siglip_jax.data.loader.chunks import Examples
from siglip_jax.data.loader.chunks import Task
from siglip_jax.data.loader.processes import Processes

Batch = dict[str, np.ndarray]
PREFETCH = 4  # batches
_SECONDS = 5.0  # to wait for threads that read


@runtime_checkable
class Ahead(Protocol):
  """A fetcher of data, ahead of the reading of examples."""

  def advance(self, batches: int) -> None:
    """Notes that this many batches were read; raises what went wrong."""
    ...

  def close(self) -> None:
    """Ends the fetching."""
    ...


class Batches(Iterator[Batch]):
  """An iterator over batches, of which a few are read ahead.

  They lie in a ring of `prefetch` + 2 batches, whatever the number of threads
  and processes: `prefetch` to read into, one in use, and one on its way to a
  device. The first call of `next` starts the reading.

  A batch stays as it is for as long as one of its arrays, or a view of one,
  exists; its memory is used again after that. Who keeps all batches gets copies
  once the ring is used up. A JAX array made of a batch counts, too: JAX refers
  to the memory until it has copied it, or uses it where it lies.

  Args:
    examples: what to read.
    num_threads: number of threads that read, at least one.
    num_workers: number of processes that read instead, each with `num_threads`
      threads. They end with the iterator, or with this process.
    prefetch: number of batches to read ahead, at least one.
    ahead: what fetches data ahead of the reading; it is closed in the end.
  """

  def __init__(
      self,
      examples: Examples,
      *,
      num_threads: int = 2,
      num_workers: int = 0,
      prefetch: int = PREFETCH,
      ahead: Ahead | None = None,
  ):
    self._filling = _Filling(
        examples, max(1, num_threads), num_workers, prefetch + 2, ahead
    )
    self._count = 0
    # Also at the end of the program: its threads must not outlive Python.
    self.close = weakref.finalize(self, self._filling.close)

  def __next__(self) -> Batch:
    try:
      if self._count >= self._filling.batches or not self.close.alive:
        raise StopIteration
      if not self._count:
        self._filling.start()
      batch = self._filling.batch(self._count)
      self._count += 1
      return batch
    except BaseException:
      self.close()
      raise


class _Filling:
  """The ring, and who fills it.

  A slot becomes free in the middle of anything: when Python finds that its
  arrays are not used any more. So nothing here that `_take` calls waits for a
  lock.
  """

  def __init__(
      self,
      examples: Examples,
      threads: int,
      workers: int,
      slots: int,
      ahead: Ahead | None,
  ):
    self.batches = examples.batches
    self._examples, self._ahead = examples, ahead
    self._threads, self._workers = threads, workers
    self._slots = min(slots, self.batches)
    self._in_flight = threads * max(1, workers)
    self._process = os.getpid()
    self._stopped = False
    self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    self._numbers = itertools.count()
    self._parts: dict[int, _Part] = {}
    self._used: dict[int, bool] = {}  # slots whose arrays are outside
    self._changed = threading.Condition()
    self._died: Exception | None = None
    self._processes: Processes | None = None
    self._readers: list[threading.Thread] = []

  def start(self) -> None:
    """Starts the reading.

    The first example says what a batch looks like. It is read here, while the
    processes start.
    """
    memory = -1
    try:
      if self._workers:
        memory = ring_lib.memory_file()
        self._processes = Processes(self._workers, self._threads, memory)
      first = chunks.one(self._examples, 0, 0)
      layout = ring_lib.Layout.of(first)
      self._ring = ring_lib.Ring(
          layout, self._examples.rows, self._slots, memory
      )
    finally:
      if memory >= 0:
        os.close(memory)
    for slot in range(self._slots):
      self._take(slot)
    others = layout.place(first, self._ring.arrays(0), 0, {})
    self._done(Done(Task(0, 0, 0, 1), [others]))
    if self._processes is not None:
      self._processes.start(
          self._examples, self._ring, self._tasks, self._done, self._die
      )
      return
    for _ in range(self._threads):
      self._readers.append(threading.Thread(target=self._read, daemon=True))
      self._readers[-1].start()

  def batch(self, number: int) -> Batch:
    """Waits for a batch, and returns it."""
    part = self._part(number)
    with self._changed:
      while part.left and self._died is None:
        self._changed.wait()
    if self._died is not None and part.left:
      raise self._died
    if part.errors:
      raise part.errors[min(part.errors)]
    del self._parts[number]
    if self._ahead is not None:
      self._ahead.advance(number + 1)
    last = number + 1 == self.batches
    if len(self._used) < self._slots - 1 or last:
      self._used[part.slot] = True
      batch = self._ring.arrays(part.slot, self._free)
    else:
      arrays = self._ring.arrays(part.slot)
      batch = {name: array.copy() for name, array in arrays.items()}
      self._take(part.slot)
    return batch | _others(part)

  def close(self) -> None:
    """Ends the reading, and all that was started for it."""
    if os.getpid() != self._process:
      return  # a fork of the process that started the reading
    self._stopped = True
    for _ in range(self._in_flight):
      self._tasks.put(None)
    if self._processes is not None:
      self._processes.close()
    end = time.monotonic() + _SECONDS
    for reader in self._readers:
      if reader is not threading.current_thread():
        reader.join(max(0.0, end - time.monotonic()))
    if self._ahead is not None:
      self._ahead.close()

  def _free(self, slot: int) -> None:
    """Takes back a slot whose arrays nobody uses any more."""
    del self._used[slot]
    self._take(slot)

  def _take(self, slot: int) -> None:
    """Has the next batch read into a slot."""
    number = next(self._numbers)
    if self._stopped or number >= self.batches:
      return
    rows = self._examples.rows
    self._part(number).slot = slot
    wanted = range(0 if number else 1, rows)
    for chunk in chunks.split(wanted, self._in_flight, rows):
      self._tasks.put(Task(number, slot, chunk.start, chunk.stop))

  def _part(self, number: int) -> "_Part":
    """Returns what is known of a batch, whose slot may not be free yet."""
    return self._parts.setdefault(number, _Part(self._examples.rows))

  def _done(self, done: Done) -> None:
    with self._changed:
      part = self._part(done.task.batch)
      part.left -= done.task.end - done.task.first
      if done.error is not None:
        part.errors[done.row] = done.error
      for row, others in enumerate(done.others, done.task.first):
        part.others[row] = others
      if not part.left:
        self._changed.notify_all()

  def _die(self, error: Exception) -> None:
    with self._changed:
      self._died = self._died or error
      self._changed.notify_all()

  def _read(self) -> None:
    """Does tasks in a thread of this process."""
    while (task := self._tasks.get()) is not None and not self._stopped:
      rows = self._ring.arrays(task.slot)
      stopped = lambda: self._stopped
      self._done(
          chunks.run(task, self._examples, self._ring.layout, rows, stopped)
      )


class _Part:
  """A batch that is being filled.

  Attributes:
    slot: its place in the ring, once it has one.
    left: number of rows that are missing.
    others: for each row, the values that do not lie in the ring.
    errors: row -> what a task ended in there.
  """

  def __init__(self, rows: int):
    self.slot, self.left = -1, rows
    self.others: list[Mapping[str, Any]] = [{}] * rows
    self.errors: dict[int, BaseException] = {}


def _others(part: _Part) -> Batch:
  """Returns the values that do not lie in the ring, as arrays."""
  batch = {}
  for name in part.others[0]:
    values = [others[name] for others in part.others]
    if all(isinstance(value, str) for value in values):
      batch[name] = np.array(values)
    else:
      batch[name] = np.empty(len(values), object)
      for row, value in enumerate(values):  # NumPy would look into lists
        batch[name][row] = value
  return batch
