"""The bytes of a shard for one walk through it, on this machine or far away."""

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import mmap
import os

from siglip_jax.data import remote
from siglip_jax.data.tars import scan
from siglip_jax.errors import UserError

_CHUNK = 1 << 25  # bytes of one read; two are in memory


@contextlib.contextmanager
def opened(path: str, size: int, etag: str = "") -> Iterator[scan.Data]:
  """Opens a shard for a walk.

  Args:
    path: the shard.
    size: its size in bytes.
    etag: its etag, if it is remote; a change is an error.

  Raises:
    UserError: the shard cannot be read, or became shorter.
  """
  if remote.is_remote(path):
    ranges = remote.Ranges([path], etags=[etag])
    with futures.ThreadPoolExecutor(1) as pool:
      yield Window(lambda offset, n: ranges.read(0, offset, n), size, pool)
    return
  try:
    file = open(path, "rb")
  except OSError as e:
    raise UserError(
        f"{path} cannot be read: {e.strerror or e}. Check its permissions."
    ) from None
  with file:
    if not size:
      yield b""
      return
    if os.fstat(file.fileno()).st_size < size:
      raise UserError(
          f"{path} must not change while it is indexed; it had {size} bytes"
          " before. Run the same command again."
      )
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
      data.madvise(mmap.MADV_SEQUENTIAL)
      yield data


class Window:
  """A window that moves over a remote file, with the next part on its way.

  Args:
    read: called with offset and size, returns the bytes.
    size: size of the file.
    pool: an executor that reads ahead.
    chunk: bytes of a read.
  """

  def __init__(
      self,
      read: Callable[[int, int], bytes],
      size: int,
      pool: futures.Executor,
      chunk: int = _CHUNK,
  ):
    self._read, self._size, self._pool = read, size, pool
    self._chunk = chunk
    self._first, self._part = 0, b""
    self._ahead: tuple[int, futures.Future] | None = None

  def __getitem__(self, part: slice) -> bytes:
    start, stop = part.start or 0, min(part.stop, self._size)
    begin = start - self._first
    if begin < 0 or stop - self._first > len(self._part):
      self._move(start, stop)
      begin = start - self._first
    return self._part[begin : begin + stop - start]

  def find(self, sub: bytes, start: int) -> int:
    """Returns the first place of `sub` at or after `start`, or -1."""
    while start + len(sub) <= self._size:
      stop = min(start + self._chunk, self._size)
      place = self[start:stop].find(sub)
      if place >= 0:
        return start + place
      start = stop - len(sub) + 1
    return -1

  def _move(self, start: int, stop: int) -> None:
    """Moves the window so that it holds a part of the file."""
    kept = self._part[max(0, start - self._first) :]
    if start < self._first or start > self._first + len(self._part):
      kept = b""
    at = start + len(kept)
    while at < stop:
      more = self._next(at, max(self._chunk, stop - at))
      kept += more
      at += len(more)
    self._first, self._part = start, kept

  def _next(self, at: int, n: int) -> bytes:
    """Returns bytes from `at` on, and asks for what will follow them."""
    size = min(n, self._size - at)
    if self._ahead and self._ahead[0] == at:
      part = self._ahead[1].result()
    else:
      part = self._read(at, size)
    follows = at + len(part)
    if follows < self._size:
      length = min(self._chunk, self._size - follows)
      self._ahead = follows, self._pool.submit(self._read, follows, length)
    return part
