"""Many texts in one buffer: 8 bytes more than their UTF-8 for each."""

import array
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses

from jaxtyping import Int64
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Strings:
  """A list of texts, which a worker process gets as two buffers.

  Attributes:
    data: all texts, one after the other, in UTF-8.
    ends: where each text ends.
  """

  data: bytes
  ends: Int64[np.ndarray, " N"]

  @classmethod
  def of(cls, texts: Iterable[str]) -> "Strings":
    """Returns a list of some texts."""
    data, ends = bytearray(), array.array("q")
    for text in texts:
      data += text.encode("utf-8", "surrogateescape")
      ends.append(len(data))
    return cls(bytes(data), np.array(ends, np.int64))

  def __len__(self) -> int:
    return len(self.ends)

  def __iter__(self) -> Iterator[str]:
    start = 0
    for end in self.ends.tolist():
      yield self.data[start:end].decode("utf-8", "surrogateescape")
      start = end

  def __getitem__(self, index: int) -> str:
    start = self.ends[index - 1] if index else 0
    part = self.data[start : self.ends[index]]
    return part.decode("utf-8", "surrogateescape")
