"""The samples of shards that a source has: of its layouts, split and filter."""

import hashlib

from jaxtyping import Bool
from jaxtyping import Int64
import numpy as np

from siglip_jax.data.tars.manifest import Manifest
from siglip_jax.data.tars.table import Layout
from siglip_jax.data.tars.table import Table
from siglip_jax.errors import UserError


class Selection:
  """A selection of samples, which knows their number without any table.

  Args:
    lengths: number of samples of each shard with the layouts and the split.
    layouts: layouts of the samples.
    split: "all", "train" or "validation".
    select: which of them are in the selection; None for all.

  Attributes:
    starts: index of each shard's first sample, and the number of samples.
  """

  def __init__(
      self,
      lengths: Int64[np.ndarray, " S"],
      *,
      layouts: set[Layout],
      split: str,
      select: Bool[np.ndarray, " N"] | None = None,
  ):
    self._layouts, self._split = layouts, split
    self._bounds = self.starts = _ends(lengths)
    self._bits = None
    if select is not None:
      if np.shape(select) != (self._bounds[-1],):
        raise UserError(
            f"`select` must have a value for each of {self._bounds[-1]}"
            f" samples; got the shape {np.shape(select)}."
        )
      select = np.asarray(select, bool)
      self._bits = np.packbits(select)
      counts = np.zeros(len(lengths), np.int64)
      filled = lengths > 0
      if filled.any():
        first = self._bounds[:-1][filled]
        counts[filled] = np.add.reduceat(select, first, dtype=np.int64)
      self.starts = _ends(counts)

  @classmethod
  def of(
      cls,
      manifest: Manifest,
      numbers: Int64[np.ndarray, " S"],
      *,
      layouts: set[Layout],
      split: str,
      select: Bool[np.ndarray, " N"] | None = None,
  ) -> "Selection":
    """Returns the selection from some shards of a manifest."""
    lengths = manifest.lengths(layouts, split)[numbers]
    return cls(lengths, layouts=layouts, split=split, select=select)

  def locate(self, index: int) -> tuple[int, int]:
    """Returns a sample's shard, and its place among those of the shard."""
    if not 0 <= index < self.starts[-1]:
      raise IndexError(f"{index} of {self.starts[-1]} samples")
    shard = int(np.searchsorted(self.starts, index, side="right")) - 1
    return shard, int(index - self.starts[shard])

  def rows(self, shard: int, table: Table) -> Int64[np.ndarray, " M"]:
    """Returns the rows of a shard's table that are in the selection."""
    chosen = table.of_layouts(self._layouts)
    if self._split != "all":
      chosen &= table.validation == (self._split == "validation")
    rows = np.flatnonzero(chosen)
    if self._bits is None:
      return rows
    first, last = self._bounds[shard : shard + 2].tolist()
    bits = np.unpackbits(self._bits[first // 8 : (last + 7) // 8])
    return rows[bits[first % 8 : first % 8 + last - first].astype(bool)]

  def add_to(self, digest: "hashlib._Hash") -> None:
    """Adds what is selected to a digest."""
    digest.update(repr((sorted(self._layouts), self._split)).encode())
    if self._bits is not None:
      digest.update(self._bits.tobytes())


def _ends(lengths: np.ndarray) -> np.ndarray:
  """Returns where each of some parts ends, after a 0."""
  return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
