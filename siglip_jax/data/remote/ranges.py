"""Ranges of bytes of files, local and remote, read from many threads."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import functools
import os
from pathlib import Path

import obstore

from siglip_jax.data.remote import retries as _retries
from siglip_jax.data.remote import stores
from siglip_jax.data.remote.retries import Retries
from siglip_jax.data.remote.stats import bare
from siglip_jax.errors import UserError
from siglip_jax.files import is_remote

PIECE = 8 << 20  # bytes of a request: a bucket is paid by request
_OPEN = 64  # local files that stay open


class Ranges:
  """Reads ranges of files. Threads may share it; pickles reopen the files.

  Args:
    paths: local and remote paths.
    etags: etag of each file as `stat` returns it, to notice that a remote file
      was replaced; "" for one that is not known.
    in_flight: number of requests that one large read may have out.
    retries: how often and when requests are repeated.
  """

  def __init__(
      self,
      paths: Sequence[str],
      *,
      etags: Sequence[str] | None = None,
      in_flight: int = 16,
      retries: Retries | None = None,
  ):
    self.paths, self._etags = paths, etags
    self._in_flight, self._retries = in_flight, retries or Retries()
    self._open = functools.lru_cache(_OPEN)(_File)

  def __reduce__(self):
    make = functools.partial(
        Ranges,
        etags=self._etags,
        in_flight=self._in_flight,
        retries=self._retries,
    )
    return make, (self.paths,)

  def read(self, index: int, offset: int, size: int) -> bytes:
    """Returns `size` bytes of a file from an offset on.

    Raises:
      UserError: the file is missing, forbidden, shorter, or was replaced.
      TryAgain: it could not be read after all retries.
    """
    path = self.paths[index]
    if not is_remote(path):
      return self._local(path, offset, size)
    pieces = list(_pieces(offset, size))
    if len(pieces) == 1:
      return bytes(self._piece(index, *pieces[0]))
    threads = min(self._in_flight, len(pieces))
    with futures.ThreadPoolExecutor(max(1, threads)) as pool:
      return b"".join(pool.map(lambda p: self._piece(index, *p), pieces))

  def save(
      self, index: int, offset: int, size: int, path: str | os.PathLike
  ) -> None:
    """Writes a range of a file to a new file, one piece after the other.

    Raises:
      UserError: as of `read`.
      TryAgain: as of `read`.
      OSError: the new file cannot be written.
    """
    source = self.paths[index]
    read = self._piece if is_remote(source) else self._piece_of_local
    with Path(path).open("wb", buffering=0) as file:
      for piece in _pieces(offset, size):
        data = memoryview(read(index, *piece))
        while data:  # a disk that is nearly full takes a part
          data = data[file.write(data) :]

  def _local(self, path: str, offset: int, size: int) -> bytes:
    try:
      file = self._open(path)
    except FileNotFoundError:
      raise UserError(
          f"{path} must stay where it was when the run began; it is gone."
          " Put it back."
      ) from None
    data = file.read(offset, size)
    if len(data) < size:
      raise _shorter(path, offset, size)
    return data

  def _piece_of_local(self, index: int, offset: int, size: int) -> bytes:
    return self._local(self.paths[index], offset, size)

  def _piece(self, index: int, offset: int, size: int):
    """Returns a piece of a remote file, as a buffer."""
    if not size:
      return b""
    path = self.paths[index]
    place = stores.place(path)
    store = stores.store(place, self._retries)
    expected = self._etags[index] if self._etags else ""

    def request():
      answer = obstore.get(
          store, place.name, options={"range": (offset, offset + size)}
      )
      _check(path, answer.meta, bare(expected), offset, size)
      data = answer.bytes()
      if len(data) < size:
        raise _retries.Incomplete(f"{len(data)} of {size} bytes came")
      return data

    what = f"{path} (bytes {offset} to {offset + size})"
    return _retries.call(what, request, self._retries)


def _pieces(offset: int, size: int) -> Iterator[tuple[int, int]]:
  """Yields offsets and sizes of a range's requests: one at least."""
  for begin in range(0, max(size, 1), PIECE):
    yield offset + begin, min(PIECE, size - begin)


def _check(path: str, meta, expected: str, offset: int, size: int) -> None:
  """Raises a UserError if a file is not the one that the reader knows."""
  etag = bare(meta["e_tag"])
  if expected and etag != expected:
    raise UserError(
        f"{path} must not change after it was indexed; its etag was {expected}"
        f" and is {etag or 'none'}. Put the old file back, or make a new index."
    )
  if meta["size"] < offset + size:
    raise _shorter(path, offset, size)


def _shorter(path: str, offset: int, size: int) -> UserError:
  return UserError(
      f"{path} must hold {size} bytes from {offset} on; it is shorter. It was"
      " cut off or replaced: put the old file back, or make a new index."
  )


class _File:
  """An open local file, which closes when nobody uses it any more.

  The cache may drop it while another thread reads: that thread's reference
  keeps it open.
  """

  def __init__(self, path: str):
    self._fd = os.open(path, os.O_RDONLY)
    self._close: Callable[[int], None] = os.close

  def read(self, offset: int, size: int) -> bytes:
    """Returns up to `size` bytes, fewer only at the file's end."""
    data = os.pread(self._fd, size, offset)
    while 0 < len(data) < size:
      if not (more := os.pread(self._fd, size - len(data), offset + len(data))):
        break
      data += more
    return data

  def __del__(self):
    if hasattr(self, "_close"):
      self._close(self._fd)
