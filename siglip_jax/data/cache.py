"""An in-memory cache of partly preprocessed records."""

import sys
import threading

from siglip_jax.data.preprocess import Record


class Cache:
  """A cache of records by index, limited in bytes.

  A record that does not fit is not stored, and nothing is evicted: every epoch
  reads each record once, so no eviction policy beats keeping the first ones.

  Args:
    max_bytes: limit on the total size of the records' values; keys and
      bookkeeping are not counted.
  """

  def __init__(self, max_bytes: int):
    self._left = max_bytes
    self._records: dict[int, Record] = {}
    self._lock = threading.Lock()

  def __getstate__(self):
    return self._left + sum(map(_size, self._records.values()))

  def __setstate__(self, max_bytes: int):
    self.__init__(max_bytes)  # worker processes start with an empty cache

  def get(self, index: int) -> Record | None:
    """Returns the record or None; callers must not modify it."""
    return self._records.get(index)

  def put(self, index: int, record: Record) -> None:
    """Stores a record if there is room."""
    size = _size(record)
    with self._lock:
      if size <= self._left and index not in self._records:
        self._left -= size
        self._records[index] = record


def _size(record: Record) -> int:
  return sum(
      int(getattr(v, "nbytes", 0)) or sys.getsizeof(v) for v in record.values()
  )
