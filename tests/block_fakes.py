"""Sources of blocks to test reading ahead with."""

from pathlib import Path
import threading

from siglip_jax.data.remote import Ranges


class NumberBlocks:
  """Blocks that hold their number, written as often as they are asked for.

  Attributes:
    written: numbers of the blocks, in the order in which they were begun.
    largest: the most bytes that were in the folder when a block was written.
  """

  def __init__(self, size=100):
    self.size, self.written, self.largest = size, [], 0
    self.errors = {}  # block -> exception
    self.gates = {}  # block -> event that it waits for
    self.folder = None
    self._lock = threading.Lock()

  def block_bytes(self, block):
    del block
    return self.size

  def write_block(self, block, path):
    with self._lock:
      self.written.append(block)
    if block in self.gates:
      self.gates[block].wait()
    if block in self.errors:
      raise self.errors[block]
    Path(path).write_bytes(content(block, self.size))
    with self._lock:
      self.largest = max(self.largest, total(Path(path).parent))

  def use_blocks(self, folder):
    self.folder = folder


def content(block, size=100):
  """The bytes of a block of NumberBlocks."""
  return bytes([block % 251]) * size


def total(folder):
  """The bytes of the blocks in a folder that are whole."""
  sizes = []
  for path in folder.iterdir():
    if path.name.isdigit():
      try:
        sizes.append(path.stat().st_size)
      except FileNotFoundError:
        pass  # deleted since the listing
  return sum(sizes)


class RangeBlocks:
  """A file of samples of one size, read by blocks or one by one.

  Args:
    url: the file.
    count: number of samples.
    size: bytes of each.
    per_block: samples of a block.
    retries: of the requests.
  """

  def __init__(self, url, *, count, size, per_block, retries=None):
    self._ranges = Ranges([url], retries=retries)
    self._count, self._size, self._per_block = count, size, per_block
    self._folder = None
    self.block_starts = [*range(0, count, per_block), count]

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    block, row = divmod(index, self._per_block)
    path = self._folder.wait(block) if self._folder else None
    if path is None:
      return self._ranges.read(0, index * self._size, self._size)
    with path.open("rb", buffering=0) as file:
      file.seek(row * self._size)
      return file.read(self._size)

  def block_bytes(self, block):
    starts = self.block_starts
    return (starts[block + 1] - starts[block]) * self._size

  def write_block(self, block, path):
    begin = self.block_starts[block] * self._size
    self._ranges.save(0, begin, self.block_bytes(block), path)

  def use_blocks(self, folder):
    self._folder = folder
