"""Row groups that are decoded: a few in memory, more in files of blocks.

A decoded row group is a table whose first column has the images' bytes, with
offsets of 64 bits and without compression. As a file it is an Arrow IPC file,
so an image is a range of bytes in it.
"""

from collections.abc import Callable
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import os
from pathlib import Path
import threading
from typing import Any

from jaxtyping import Int64
import numpy as np

from siglip_jax.data.tables.arrow import arrow
from siglip_jax.data.tables.arrow import inside
from siglip_jax.data.tables.arrow import is_bytes

_MEMORY = 256 << 20  # bytes of tables that stay decoded
_ROWS = 200_000  # rows of files whose texts stay in memory: about 60 MB


def tidy(table: Any, image: Sequence[str], names: Sequence[str]) -> Any:
  """Returns a table of the images' bytes and other columns, in one piece.

  Args:
    table: rows as they lie in a Parquet file.
    image: names from a column to the field with the image's bytes.
    names: the other columns, in order.
  """
  pa = arrow()
  column = table.column(image[0])
  for name in image[1:]:
    column = inside(column, name)
  if not is_bytes(column.type):  # a file without any image: the type null
    column = pa.chunked_array([pa.nulls(len(table), pa.binary())])
  columns = [column.cast(pa.large_binary()), *(table.column(n) for n in names)]
  return pa.Table.from_arrays(columns, ["image", *names]).combine_chunks()


class Memory:
  """The tables of blocks that were decoded last, for many threads.

  Args:
    decode: returns the table of a block. Threads that need the same block at
      the same time wait for one of them to decode it.
  """

  def __init__(self, decode: Callable[[int], Any]):
    self._decode = decode
    self._lock = threading.Lock()
    self._tables: dict[int, futures.Future] = {}  # the one used last is last

  def row(self, block: int, row: int) -> list[Any]:
    """Returns a row's image and its other values.

    Raises:
      ImageError: the block cannot be decoded.
      UserError: its file was changed, or is gone.
      OSError: it could not be read.
    """
    return [column[row].as_py() for column in self._table(block).columns]

  def _table(self, block: int) -> Any:
    with self._lock:
      future = self._tables.pop(block, None)
      own = future is None
      if future is None:
        future = futures.Future()
      self._tables[block] = future
    if own:
      try:
        future.set_result(self._decode(block))
      except BaseException as e:
        with self._lock:
          self._tables.pop(block, None)  # the next one tries again
        future.set_exception(e)
        raise
      self._forget()
    return future.result()

  def _forget(self) -> None:
    """Drops the tables that were not used for longest, if they are too many."""
    with self._lock:
      done = [b for b, future in self._tables.items() if future.done()]
      sizes = {b: self._tables[b].result().nbytes for b in done}
      while len(sizes) > 1 and sum(sizes.values()) > _MEMORY:
        oldest = next(iter(sizes))
        del self._tables[oldest], sizes[oldest]


def write(table: Any, path: str | os.PathLike) -> None:
  """Writes a table of `tidy` as a file, not compressed."""
  pa = arrow()
  rows = max(1, len(table))
  with pa.ipc.new_file(os.fspath(path), table.schema) as file:
    file.write_table(table, max_chunksize=rows)


@dataclasses.dataclass(frozen=True, eq=False)
class _File:
  """A file of a block.

  Attributes:
    path: the file.
    bounds: where the images begin and end in it, in bytes.
    rest: the other values of each row.
    present: which rows have an image.
  """

  path: Path
  bounds: Int64[np.ndarray, " _"]
  rest: list[tuple[Any, ...]]
  present: np.ndarray


class Files:
  """Reads rows from files of blocks, from many threads.

  Of each file, its texts and the places of its images are kept, but neither
  images nor an open file: a file that is deleted must free its room.
  """

  def __init__(self):
    self._lock = threading.Lock()
    self._files: dict[int, _File] = {}  # the one used last is last
    self._rows = 0

  def row(self, block: int, path: Path, row: int) -> list[Any]:
    """Returns a row's image and its other values.

    Args:
      block: the block.
      path: its file.
      row: the row within it.

    Raises:
      FileNotFoundError: the file was deleted.
    """
    with self._lock:
      file = self._files.get(block)
    if file is None or file.path != path:
      file = self._opened(block, path)
    first, last = file.bounds[row : row + 2].tolist()
    image = _read(path, first, last - first) if file.present[row] else None
    return [image, *file.rest[row]]

  def _opened(self, block: int, path: Path) -> _File:
    file = _open(path)
    with self._lock:
      old = self._files.pop(block, None)
      self._files[block] = file
      self._rows += len(file.rest) - (len(old.rest) if old else 0)
      while self._rows > _ROWS and len(self._files) > 1:
        oldest = self._files.pop(next(iter(self._files)))
        self._rows -= len(oldest.rest)
    return file


def _open(path: Path) -> _File:
  pa = arrow()
  with pa.memory_map(os.fspath(path)) as mapped:
    whole = mapped.read_buffer()
    table = pa.ipc.open_file(whole).get_batch(0)
    images, *others = table.columns
    _, offsets, data = images.buffers()
    bounds = np.frombuffer(offsets, np.int64)[: len(table) + 1]
    start = data.address - whole.address if data is not None else 0
    rest = list(zip(*(c.to_pylist() for c in others), strict=True))
    present = images.is_valid().to_numpy(zero_copy_only=False)
  return _File(path, bounds + start, rest or [()] * len(table), present)


def _read(path: Path, offset: int, size: int) -> bytes:
  fd = os.open(path, os.O_RDONLY)
  try:
    return os.pread(fd, size, offset)
  finally:
    os.close(fd)
