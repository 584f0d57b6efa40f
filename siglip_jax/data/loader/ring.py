"""Memory for a few batches, which a process may share with its workers."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math
import mmap
import os
import tempfile
from typing import Any
import weakref

import numpy as np

from siglip_jax.errors import UserError

Arrays = dict[str, np.ndarray]
_ALIGNMENT = 64  # bytes, so that JAX can use a batch where it lies on a CPU


@dataclasses.dataclass(frozen=True)
class Layout:
  """The values of an example.

  Attributes:
    arrays: name -> shape and type, of numbers. They lie in the ring.
    others: names of the other values: texts, bytes, objects.
  """

  arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]
  others: tuple[str, ...]

  @classmethod
  def of(cls, example: Mapping[str, Any]) -> "Layout":
    """Returns the layout of an example."""
    values = {k: _array(v) for k, v in example.items()}
    arrays = {k: (v.shape, v.dtype) for k, v in values.items() if v is not None}
    return cls(arrays, tuple(k for k in values if k not in arrays))

  def move(self, record: Mapping[str, Any], rows: Arrays, row: int) -> Arrays:
    """Copies the arrays of a record to its row, and returns them there.

    What is left of preprocessing rarely changes the image, which need not stay
    in two places until then.
    """
    moved = {}
    for name, (shape, dtype) in self.arrays.items():
      value = record.get(name)
      if isinstance(value, np.ndarray) and value.ndim:
        if value.shape == shape and value.dtype == dtype:
          moved[name] = rows[name][row]
          moved[name][...] = value
    return moved

  def place(
      self,
      example: Mapping[str, Any],
      rows: Arrays,
      row: int,
      moved: Mapping[str, Any],
  ) -> dict[str, Any]:
    """Copies an example to its row, and returns its other values.

    Args:
      example: the values.
      rows: arrays of a slot.
      row: number of the row.
      moved: what `move` returned for this row.

    Raises:
      UserError: the example lacks a value, or one has another shape or type.
    """
    names = (*self.arrays, *self.others)
    for name in names:
      if name not in example:
        raise UserError(
            f"All examples must have the same values, {', '.join(names)}; one"
            f" has only {', '.join(example)}. Check the data, and keep(...) in"
            " the preprocessing."
        )
    for name, (shape, dtype) in self.arrays.items():
      if example[name] is moved.get(name):
        continue
      value = np.asarray(example[name])
      if value.shape != shape:
        raise one_shape(name, [shape, value.shape])
      if not np.can_cast(value.dtype, dtype, "safe"):
        raise UserError(
            f"The {name!r} of a batch must have one type; got {dtype} and"
            f" {value.dtype}. Check the data and the preprocessing."
        )
      rows[name][row] = value
    return {name: example[name] for name in self.others}


def one_shape(name: str, shapes: list[tuple[int, ...]]) -> UserError:
  """Returns the error about several shapes in one batch."""
  return UserError(
      f"The {name!r} of a batch must have one shape; got"
      f" {sorted(set(shapes))}. End the preprocessing of images in resize or a"
      " crop."
  )


def memory_file() -> int:
  """Returns a descriptor of memory without a name, so that none is left."""
  if hasattr(os, "memfd_create"):
    return os.memfd_create("siglip_jax loader")
  with tempfile.TemporaryFile() as file:
    return os.dup(file.fileno())


def _array(value: Any) -> np.ndarray | None:
  """Returns a value as an array of numbers, or None."""
  try:
    array = np.asarray(value)
  except ValueError:  # lists of different lengths
    return None
  return None if array.dtype.kind in "OSU" else array


class Ring:
  """Slots of one batch each.

  Args:
    layout: the values of an example.
    rows: number of examples in a batch.
    slots: number of batches.
    file: descriptor of memory that processes share, which the first of them
      makes large enough; by default the memory is this process's own.

  Attributes:
    layout: the values of an example.
    slots: number of batches.
  """

  def __init__(self, layout: Layout, rows: int, slots: int, file: int = -1):
    self.layout, self.slots = layout, slots
    self._arrays, size = {}, 0
    for name, (shape, dtype) in layout.arrays.items():
      used = rows * math.prod(shape) * dtype.itemsize
      self._arrays[name] = (slice(size, size + used), (rows, *shape), dtype)
      size += -(-used // _ALIGNMENT) * _ALIGNMENT
    self._size = size
    total = max(slots * size, 1)
    if file >= 0 and os.fstat(file).st_size < total:
      os.ftruncate(file, total)
    self._memory = memoryview(mmap.mmap(file, total))

  def arrays(
      self, slot: int, free: Callable[[int], None] | None = None
  ) -> Arrays:
    """Returns the arrays of a slot.

    Args:
      slot: number of the slot.
      free: function that is called with the number when neither the arrays nor
        views of them exist any more. It may run in any thread, in the middle of
        anything, so it must not wait for a lock.
    """
    # All views keep this array, whose memory is not another array's.
    root = np.frombuffer(
        self._memory, np.uint8, count=self._size, offset=slot * self._size
    )
    if free is not None:
      weakref.finalize(root, free, slot).atexit = False
    return {
        name: root[place].view(dtype).reshape(shape)
        for name, (place, shape, dtype) in self._arrays.items()
    }
