"""Examples that are made rather than read, for tests of the loader."""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import signal
import sys
import time

import numpy as np
import psutil

from siglip_jax.data.loader.chunks import Begun
from siglip_jax.errors import UserError


class Numbers:
  """Images of which each is full of its own number.

  Attributes:
    batches: number of batches.
    rows: number of examples in a batch.
    shape: shape of an image.
    seconds: time that reading takes.
    errors: number -> error that reading it raises.
    deaths: numbers at which the process is killed, if it is not the run's.
    run: the run's process.
  """

  def __init__(
      self,
      batches: int,
      rows: int,
      *,
      shape: tuple[int, ...] = (2,),
      seconds: float = 0.0,
      errors: Mapping[int, BaseException] | None = None,
      deaths: Sequence[int] = (),
  ):
    self.batches, self.rows, self.shape = batches, rows, shape
    self.seconds, self.errors, self.deaths = seconds, errors or {}, deaths
    self.run = os.getpid()

  def begin(self, batch: int, row: int) -> Begun:
    """Returns the example of a place."""
    number = batch * self.rows + row
    time.sleep(self.seconds)
    if number in self.errors:
      raise self.errors[number]
    if number in self.deaths and os.getpid() != self.run:
      os.kill(os.getpid(), signal.SIGKILL)
    image = np.full(self.shape, number % 251, np.uint8)
    values = {"image": image, "number": np.int64(number)}
    return Begun(values, number, {"text": f"text {number}"})

  def finish(self, begun: Sequence[Begun]) -> list[dict]:
    """Returns the values of examples."""
    return [{**one.record, **one.beside} for one in begun]

  def check(self, batch: Mapping[str, np.ndarray], number: int) -> None:
    """Asserts that a batch is what it should be."""
    first = number * self.rows
    numbers = np.arange(first, first + self.rows)
    np.testing.assert_array_equal(batch["number"], numbers)
    images = batch["image"].reshape(self.rows, -1)
    assert (images == (numbers % 251)[:, None]).all()
    assert batch["text"].tolist() == [f"text {n}" for n in numbers]


class Modules(Numbers):
  """Examples whose text names the large libraries of their process."""

  def finish(self, begun: Sequence[Begun]) -> list[dict]:
    """Returns the values of examples."""
    names = {"jax", "flax", "orbax", "tensorflow", "torch", "grain"}
    loaded = ",".join(sorted(names & sys.modules.keys()))
    return [v | {"text": loaded} for v in super().finish(begun)]


class Fetched:
  """A source of numbers in blocks of five, which are fetched before use.

  Attributes:
    count: number of records.
    blocks_options: where the blocks go.
    fetched: numbers of the blocks that were fetched, in this process.
    broken: a block that cannot be fetched any more.
  """

  def __init__(self, count: int, folder: str, broken: int = -1):
    self.count = count
    self.blocks_options = {"cache_dir": folder, "cache_gb": 1e-5}
    self.block_starts = np.arange(0, count + 1, 5)
    self.fetched: list[int] = []
    self.broken, self._folder = broken, None

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> dict:
    path = self._folder and self._folder.wait(index // 5)
    origin = "block" if path else "source"
    return {"number": np.int64(index), "origin": origin}

  def key(self, index: int) -> str:
    """Returns a record's name."""
    return f"record {index}"

  def block_bytes(self, block: int) -> int:
    """Returns the size of a block."""
    del block
    return 100

  def write_block(self, block: int, path) -> None:
    """Fetches a block."""
    if block == self.broken:
      raise UserError(f"block {block} has changed")
    self.fetched.append(block)
    with open(path, "wb") as file:
      file.write(bytes(100))

  def use_blocks(self, folder) -> None:
    """Reads from a folder from now on."""
    self._folder = folder


def workers() -> list[psutil.Process]:
  """The loader's worker processes; other tests may have children, too."""
  return [
      process
      for process in psutil.Process().children()
      if "siglip_jax.data.loader" in " ".join(process.cmdline())
  ]
