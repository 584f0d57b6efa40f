"""Reading ahead: threads that fetch blocks in the order of a schedule."""

import atexit
import collections
from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import heapq
import os
import threading
import time
from typing import Protocol
from typing import runtime_checkable

from siglip_jax.data.blocks.folder import Folder
from siglip_jax.data.lanes import Window
from siglip_jax.errors import NO_ROOM
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

_SPARE = 256  # uses of blocks in the folder that are known beforehand
_JOIN_SECONDS = 2.0  # an end does not wait longer for requests that are out


@runtime_checkable
class BlockSource(Protocol):
  """A source that can fetch its samples by blocks."""

  def block_bytes(self, block: int) -> int:
    """Returns the size of a block's file, at least roughly."""
    ...

  def write_block(self, block: int, path: str | os.PathLike) -> None:
    """Writes a block to a file."""
    ...


class ReadAhead:
  """Threads that fetch blocks into a folder before they are read.

  A block is deleted when the last turn that needs it has been delivered. At
  most `max_bytes` of blocks are in the folder, those that are being fetched
  included: the threads wait for room.

  Args:
    source: fetches a block; `write_block` raises UserError for what must end a
      run, and OSError for what was given up after retries.
    schedule: windows in the order of their first turn, endless or not.
    folder: where the blocks go, an empty folder.
    max_bytes: limit on the blocks' files.
    in_flight: number of threads, each of which fetches one block.
    remove: removes the folder at the end.

  Attributes:
    bytes_fetched: bytes of all blocks so far.
    blocks_fetched: their number.
    late_blocks: those of them that came after their first turn was delivered.
    bytes_held: bytes in the folder, and of blocks being fetched.
  """

  def __init__(
      self,
      source: BlockSource,
      schedule: Iterable[Window],
      folder: Folder,
      *,
      max_bytes: int,
      in_flight: int = 16,
      remove: Callable[[], None] = lambda: None,
  ):
    self.folder = folder
    self.bytes_fetched = self.blocks_fetched = 0
    self.late_blocks = self.bytes_held = 0
    self._source, self._max_bytes, self._remove = source, max_bytes, remove
    self._to_admit = _in_line(schedule)
    self._next: tuple[int, int, int] | None = next(self._to_admit, None)
    self._jobs: collections.deque[int] = collections.deque()
    self._held: dict[int, _Held] = {}
    self._ends: list[tuple[int, int]] = []  # a heap of last turn, block
    self._turn = 0
    self._error: BaseException | None = None
    self._closed = False
    self._changed = threading.Condition()
    self._threads = [
        threading.Thread(target=self._work, name=f"blocks{i}", daemon=True)
        for i in range(in_flight)
    ]
    atexit.register(self.close)  # a thread must not be cut off within obstore
    with self._changed:
      self._admit()
    for thread in self._threads:
      thread.start()

  @property
  def coming(self) -> int:
    """The number of blocks in line and being fetched."""
    with self._changed:
      return sum(not held.there for held in self._held.values())

  def advance(self, turn: int) -> None:
    """Deletes what is not needed from a turn on, which makes room.

    Args:
      turn: the first turn that is not yet delivered.

    Raises:
      UserError: a block cannot be had, or does not fit on the disk.
      TryAgain: a block could not be fetched after all retries.
    """
    with self._changed:
      self._raise()
      self._turn = turn
      while self._ends and self._ends[0][0] < turn:
        last, block = heapq.heappop(self._ends)
        held = self._held.get(block)
        # Otherwise a later window needs it as well, or it is gone already.
        if held is not None and held.last == last:
          held.over = True
          self._drop(block)
      self._admit()
      self._raise()

  def close(self) -> None:
    """Ends the threads and removes the folder with all blocks."""
    with self._changed:
      if self._closed:
        return
      self._closed = True
      self._changed.notify_all()
    atexit.unregister(self.close)
    end = time.monotonic() + _JOIN_SECONDS
    for thread in self._threads:
      thread.join(max(0.0, end - time.monotonic()))
    self._remove()

  def _raise(self) -> None:
    if self._error is not None:
      raise self._error

  def _work(self) -> None:
    while (block := self._job()) is not None:
      try:
        self._fetch(block)
      except BaseException as e:  # `advance` raises it in the main thread
        with self._changed:
          self._fail(e, block)
        return

  def _job(self) -> int | None:
    """Returns the next block to fetch, or None at the end."""
    with self._changed:
      while not self._closed and self._error is None:
        if self._jobs:
          block = self._jobs.popleft()
          self._held[block].begun = True
          return block
        if self._next is None and not self._held:
          return None
        self._changed.wait()
      return None

  def _admit(self) -> None:
    """Lets blocks into the line, in the schedule's order, while they fit.

    Their readers wait for them from then on.
    """
    if self._closed or self._error is not None:
      return
    try:
      while self._next is not None and self._admitted(*self._next):
        self._next = next(self._to_admit, None)
    except BaseException as e:  # of the source, the schedule or the disk
      self._fail(e)
    self._changed.notify_all()

  def _admitted(self, first: int, last: int, block: int) -> bool:
    """Lets a block into the line; False if it must wait for room."""
    held = self._held.get(block)
    if held is not None and held.over:
      return False  # it is still being fetched for an earlier window
    if held is not None:
      # All blocks of a small set stay, so that an endless schedule always fits.
      if len(self._ends) > 2 * len(self._held) + _SPARE:
        return False
      held.last = max(last, held.last)
    else:
      size = self._source.block_bytes(block)
      if self._held and self.bytes_held + size > self._max_bytes:
        return False
      open(self.folder.next(block), "wb").close()
      held = self._held[block] = _Held(first, last, size)
      self.bytes_held += size
      self._jobs.append(block)
    heapq.heappush(self._ends, (held.last, block))
    return True

  def _fetch(self, block: int) -> None:
    part = self.folder.part(block)
    open(part, "wb").close()
    os.unlink(self.folder.next(block))
    self._source.write_block(block, part)
    size = os.path.getsize(part)
    with self._changed:
      os.replace(part, self.folder.whole(block))
      held = self._held[block]
      self.bytes_held += size - held.size
      held.size, held.there = size, True
      self.bytes_fetched += size
      self.blocks_fetched += 1
      self.late_blocks += held.first < self._turn
      self._drop(block)
      self._admit()

  def _drop(self, block: int) -> None:
    """Deletes a block that no turn needs, unless it is being fetched."""
    held = self._held[block]
    if not held.over or (held.begun and not held.there):
      return
    if held.there:
      os.unlink(self.folder.whole(block))
    else:
      self._jobs.remove(block)
      os.unlink(self.folder.next(block))
    self.bytes_held -= held.size
    del self._held[block]

  def _fail(self, error: BaseException, *blocks: int) -> None:
    """Keeps the first error; readers wait for no block in line, nor these."""
    if self._error is None and not self._closed:
      self._error = _explained(error, self.folder.path)
    paths = [
        path(b) for b in blocks for path in (self.folder.part, self.folder.next)
    ]
    for path in (*paths, *map(self.folder.next, self._jobs)):
      with contextlib.suppress(OSError):
        os.unlink(path)
    self._changed.notify_all()


class _Held:
  """A block in the folder, or on its way there.

  Attributes:
    first: the first turn that needs it.
    last: the last one.
    size: its bytes.
    begun: whether a thread fetches it, or has.
    there: whether it is whole.
    over: whether no turn needs it any more.
  """

  def __init__(self, first: int, last: int, size: int):
    self.first, self.last, self.size = first, last, size
    self.begun = self.there = self.over = False


def _in_line(schedule: Iterable[Window]):
  """Yields first turn, last turn and number of each block of the windows."""
  for window in schedule:
    for block in window.blocks:
      yield window.first, window.last, block


def _explained(error: BaseException, folder: str) -> BaseException:
  """Returns the error that a run ends with."""
  if not isinstance(error, OSError):
    return error
  if error.errno in NO_ROOM:
    return UserError(
        f"Blocks of the data must fit in {folder}, whose disk is full"
        f" ({error.strerror}). Free some of it, lower config.data.cache_gb, or"
        " name another folder as config.data.cache_dir."
    )
  return TryAgain(f"The data cannot be read ahead: {error}")
