"""The rows of row groups that a source reads, a bit for each row."""

from collections.abc import Sequence
import dataclasses
import hashlib
import os

from jaxtyping import Bool
from jaxtyping import Int64
from jaxtyping import UInt8
import numpy as np

from siglip_jax.data.tables.footers import Footers
from siglip_jax.errors import UserError

_SPLITS = ("all", "train", "validation")


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """The rows that are read. Blocks are the row groups that have any.

  Attributes:
    begins: for each row group, the number of its first row, over all files.
    counts: for each row group, how many rows it has.
    blocks: the row group of each block.
    starts: index of the first record of each block, and the number of records.
    bits: a bit for each row, packed; None if all rows are read.
  """

  begins: Int64[np.ndarray, " groups"]
  counts: Int64[np.ndarray, " groups"]
  blocks: Int64[np.ndarray, " blocks"]
  starts: Int64[np.ndarray, " blocks+1"]
  bits: UInt8[np.ndarray, " bytes"] | None

  def place(self, index: int) -> tuple[int, int]:
    """Returns the block of a record, and its place in the block."""
    block = int(np.searchsorted(self.starts, index, side="right")) - 1
    return block, int(index) - int(self.starts[block])

  def of(self, index: int) -> tuple[int, int]:
    """Returns the row group of a record, and its row in the row group."""
    block, place = self.place(index)
    group = int(self.blocks[block])
    return group, int(self.within(group)[place])

  def within(self, group: int) -> Int64[np.ndarray, " n"]:
    """Returns the rows of a row group that are read."""
    count = int(self.counts[group])
    if self.bits is None:
      return np.arange(count)
    first, skip = divmod(int(self.begins[group]), 8)
    part = self.bits[first : first + (skip + count + 7) // 8]
    return np.flatnonzero(np.unpackbits(part)[skip : skip + count])

  def numbers(
      self, indices: Sequence[int] | np.ndarray | None = None
  ) -> Int64[np.ndarray, " n"]:
    """Returns the numbers of records' rows, over all row groups.

    Args:
      indices: the records; None for all, in order.
    """
    if self.bits is None:
      rows = np.arange(int(self.counts.sum()))
    else:
      rows = np.flatnonzero(np.unpackbits(self.bits))
    return rows if indices is None else rows[np.asarray(indices, np.int64)]

  def selected(self, select: Bool[np.ndarray, " n"]) -> "Rows":
    """Returns some of these rows."""
    chosen = np.zeros(int(self.counts.sum()), bool)
    chosen[self.numbers()[select]] = True
    return _of(self.counts, chosen)


def choose(
    footers: Footers, split: str, select: Bool[np.ndarray, " rows"] | None
) -> Rows:
  """Returns the rows of a split that are selected.

  Args:
    footers: the row groups.
    split: "all", "train" or "validation".
    select: which rows of the split to read; None for all.

  Raises:
    UserError: the split is unknown, the selection is of another number of rows,
      or no row is left.
  """
  if split not in _SPLITS:
    raise UserError(
        "The split of Parquet files is all, train or validation; got"
        f" {split!r}."
    )
  count = int(footers.rows.sum())
  chosen = np.ones(count, bool)
  if split != "all":
    validation = _in_validation(footers)
    chosen = validation if split == "validation" else ~validation
  if select is not None:
    rows = np.flatnonzero(chosen)
    if select.shape != rows.shape:
      raise UserError(
          f"A selection must be of the {len(rows)} rows of the split {split!r};"
          f" got {len(select)}. Make it from these files."
      )
    chosen[rows] = select
  if not chosen.any():
    raise UserError(
        f"At least one row of the Parquet files must be read; of {count} in"
        f" {len(footers.paths)} files, {footers.paths[0]} the first, none is"
        f" in the split {split!r} and selected. Check the files and filters."
    )
  return _of(footers.rows, chosen)


def _of(counts: np.ndarray, chosen: np.ndarray) -> Rows:
  """Returns the rows that are chosen of row groups."""
  ends = np.cumsum(counts)
  begins = ends - counts
  before = np.concatenate([[0], np.cumsum(chosen)])
  read = before[ends] - before[begins]
  blocks = np.flatnonzero(read)
  starts = np.concatenate([[0], np.cumsum(read[blocks])])
  bits = None if chosen.all() else np.packbits(chosen)
  return Rows(begins, counts, blocks, starts, bits)


def _in_validation(opened: Footers) -> Bool[np.ndarray, " rows"]:
  """Returns which rows are in validation, without reading them.

  The hash is of the name of the file and of the row's number in it, mixed by
  the finalizer of SplitMix64, so a row stays in its split when files come.
  """
  per_file = np.bincount(
      opened.files, weights=opened.rows, minlength=len(opened.paths)
  ).astype(int)
  parts = []
  for path, count in zip(opened.paths, per_file.tolist(), strict=True):
    name = hashlib.sha256(os.fsencode(os.path.basename(path))).digest()[:8]
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(int.from_bytes(name, "little"))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    parts.append((x ^ (x >> np.uint64(31))) < np.uint64(2**64 // 20))
  return np.concatenate(parts)
