"""Records half-way through preprocessing, kept in memory."""

import sys
import threading

from siglip_jax.data.preprocess import Record


class Cache:
  """Records by number, up to a number of bytes.

  What does not fit is not kept. Nothing is thrown out for it: where every epoch
  reads everything once, no choice of what to keep is better than the first.

  Args:
    max_bytes: of the records' values; keys and bookkeeping come on top.
  """

  def __init__(self, max_bytes: int):
    self._left = max_bytes
    self._records: dict[int, Record] = {}
    self._lock = threading.Lock()

  def __getstate__(self):
    return self._left + sum(map(_size, self._records.values()))

  def __setstate__(self, max_bytes: int):
    self.__init__(max_bytes)  # a worker process begins with an empty one

  def get(self, index: int) -> Record | None:
    """The record, which must not be changed."""
    return self._records.get(index)

  def put(self, index: int, record: Record) -> None:
    """Keeps a record if there is room."""
    size = _size(record)
    with self._lock:
      if size <= self._left and index not in self._records:
        self._left -= size
        self._records[index] = record


def _size(record: Record) -> int:
  return sum(
      int(getattr(v, "nbytes", 0)) or sys.getsizeof(v) for v in record.values()
  )
