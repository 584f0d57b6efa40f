"""A source of the samples of tars in a bucket, read by blocks.

A block's file holds the parts of its samples that are used, one stretch of the
tar after the other, and then their table: so a loader worker reads a sample
with nothing else at hand, and no index from the bucket.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from siglip_jax.data import blocks
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars import table as table_lib
from siglip_jax.data.tars.source import TarSource
from siglip_jax.data.tars.table import Layout
from siglip_jax.data.tars.table import Table

# Bytes between two parts that are fetched for nothing, sooner than by another
# request.
_GAP = 1 << 17
_KEPT = 64 << 20  # bytes of blocks' tables in memory: 3.7 million samples
_LENGTH = 8  # bytes of the number at the end of a block's file


@dataclasses.dataclass(frozen=True)
class Block:
  """The table of a block's file.

  Attributes:
    table: places of the block's samples in the tar.
    stretches: offset and size of the parts of the tar that are in the file.
  """

  table: Table
  stretches: Sequence[Sequence[int]]

  @property
  def nbytes(self) -> int:
    """The memory that it takes, in bytes."""
    return self.table.nbytes

  def place(self, offset: int) -> int | None:
    """Returns where in the file a byte of the tar is; None if it is not."""
    before = 0
    for start, size in self.stretches:
      if start <= offset < start + size:
        return before + offset - start
      before += size
    return None


class RemoteTarSource(TarSource):
  """A source of tars that are fetched by blocks ahead of their use."""

  def __init__(self, *arguments: Any, **options: Any):
    super().__init__(*arguments, **options)
    self._folder: blocks.Folder | None = None
    self._kept = index_lib.Recent(self._block_file, _KEPT)

  def __reduce__(self):
    make, arguments = super().__reduce__()
    return _with_folder, (make, arguments, self._folder)

  def use_blocks(self, folder: blocks.Folder) -> None:
    """Looks for blocks in a folder from now on, before the bucket."""
    self._folder = folder

  def block_bytes(self, block: int) -> int:
    """Returns about how many bytes a block has, by the manifest alone."""
    shard = self._shard(block)
    return int(-(-self._sizes[shard] // self._blocks[shard]))

  def write_block(self, block: int, path: str | os.PathLike) -> None:
    """Fetches a block and writes it as a file.

    Raises:
      UserError: a shard is missing, forbidden, or was replaced.
      TryAgain: the network failed after all retries.
      OSError: the disk is full.
    """
    first, last = self._range(block)
    shard, row = self._selection.locate(first)
    table = self._tables[shard].take(np.arange(row, row + last - first))
    stretches = _stretches(table, self._wanted)
    (start, size), *others = stretches
    self._ranges.save(shard, start, size, path)
    end = table_lib.encode(table, {"stretches": stretches})
    with Path(path).open("ab") as file:
      for start, size in others:
        file.write(self._ranges.read(shard, start, size))
      file.write(end + len(end).to_bytes(_LENGTH, "little"))

  def substitute(self, index: int, rng: np.random.Generator) -> int:
    """Returns another sample of the same block, which is here already."""
    first, last = self._range(self._block(index))
    return int(rng.integers(first, last))

  def _read(
      self, index: int, wanted: Mapping[Layout, Sequence[int]]
  ) -> tuple[Layout, dict[str, bytes]]:
    """Returns parts of a sample from its block's file, or from the bucket."""
    block = self._block(index)
    if self._folder is not None and (path := self._folder.wait(block)):
      try:
        parts = self._from_file(index, block, path, wanted)
      except FileNotFoundError:
        parts = None  # its window was done just now
      if parts is not None:
        return parts
    return super()._read(index, wanted)

  def _from_file(
      self,
      index: int,
      block: int,
      path: Path,
      wanted: Mapping[Layout, Sequence[int]],
  ) -> tuple[Layout, dict[str, bytes]] | None:
    """Returns parts of a sample; None if the file does not have all of them."""
    content, row = self._kept[block], index - self._range(block)[0]
    layout = content.table.layouts[content.table.layout[row]]
    places = content.table.parts(row)
    parts = {}
    # Not kept open: a file in memory takes room as long as it is.
    fd = os.open(path, os.O_RDONLY)
    try:
      for number in wanted[layout]:
        offset, size = places[number]
        if (place := content.place(offset)) is None:
          return None
        parts[layout[number]] = os.pread(fd, size, place)
    finally:
      os.close(fd)
    return layout, parts

  def _block_file(self, block: int) -> Block:
    """Reads the table at the end of a block's file.

    Raises:
      FileNotFoundError: the file is gone.
    """
    assert self._folder is not None
    path = self._folder.whole(block)
    with open(path, "rb") as file:
      file.seek(-_LENGTH, os.SEEK_END)
      length = int.from_bytes(file.read(_LENGTH), "little")
      file.seek(-_LENGTH - length, os.SEEK_END)
      table, header, _ = table_lib.decode(file.read(length), path)
    return Block(table, header["stretches"])

  def _block(self, index: int) -> int:
    return int(np.searchsorted(self.block_starts, index, side="right")) - 1

  def _range(self, block: int) -> tuple[int, int]:
    first, last = self.block_starts[block : block + 2].tolist()
    return first, last

  def _shard(self, block: int) -> int:
    return self._selection.locate(self._range(block)[0])[0]


def _stretches(
    table: Table, wanted: Mapping[Layout, Sequence[int]]
) -> list[tuple[int, int]]:
  """Returns offset and size of what is read of a tar for some samples."""
  used = np.zeros((len(table.layouts), table.sizes.shape[1]), bool)
  for number, layout in enumerate(table.layouts):
    used[number, list(wanted.get(layout, []))] = True
  used = used[table.layout]
  offsets = table.offsets(slice(None))[used]
  sizes = table.sizes[used].astype(np.int64)
  order = np.argsort(offsets)
  begin, end = offsets[order], (offsets + sizes)[order]
  cuts = np.flatnonzero(begin[1:] > end[:-1] + _GAP)
  starts = begin[np.concatenate([[0], cuts + 1])]
  ends = end[np.concatenate([cuts, [len(end) - 1]])]
  return list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))


def _with_folder(make, arguments, folder) -> RemoteTarSource:
  source = make(*arguments)
  source.use_blocks(folder)
  return source
