"""Measures the loader on storage that is far away, and the memory it takes.

  python benchmarks/loader_latency.py

Nothing is decoded: an example waits, and then fills an image. Prints

- the time to the first batch after the first worker process is up;
- the rate in a steady state, beside threads / latency, which is the most there
  can be;
- the peak memory of all processes above that of the same pipeline with images
  of one byte, in batches, beside prefetch + 3.
"""

from collections.abc import Sequence
import contextlib
from pathlib import Path
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np
import psutil
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax.data.loader.batches import PREFETCH
from siglip_jax.data.loader.batches import Batches
from siglip_jax.data.loader.chunks import Begun

_LATENCY = flags.DEFINE_float("latency", 0.05, "Seconds of a read.")
_ROWS = flags.DEFINE_integer("rows", 512, "Examples in a batch.")
_SIDE = flags.DEFINE_integer("side", 224, "Side of an image for the memory.")


class Far:
  """Examples that are far away."""

  def __init__(self, batches: int, rows: int, *, size: int, seconds: float):
    self.batches, self.rows, self._size = batches, rows, size
    self._seconds = seconds

  def begin(self, batch: int, row: int) -> Begun:
    """Reads an example, and notes when the reading began."""
    began = time.monotonic()
    time.sleep(self._seconds)
    image = np.full(self._size, (batch + row) % 251, np.uint8)
    return Begun({"image": image, "began": began}, row, {})

  def finish(self, begun: Sequence[Begun]) -> list[dict[str, Any]]:
    """Returns the values of examples."""
    return [one.record for one in begun]


def first_batch(workers: int, threads: int) -> float:
  """Returns the seconds from a worker's first read to the first batch."""
  far = Far(9, _ROWS.value, size=1, seconds=_LATENCY.value)
  batches = Batches(far, num_workers=workers, num_threads=threads)
  batch = next(batches)
  # The run itself reads the first row, while the processes start.
  seconds = time.monotonic() - batch["began"][1:].min()
  batches.close()
  return seconds


def steady_rate(workers: int, threads: int) -> float:
  """Returns examples per second, without the first batches."""
  far = Far(40, _ROWS.value, size=1, seconds=_LATENCY.value)
  times = []
  for _ in Batches(far, num_workers=workers, num_threads=threads):
    times.append(time.monotonic())
  skipped = 2 * PREFETCH
  seconds = times[-1] - times[skipped]
  return (len(times) - 1 - skipped) * _ROWS.value / seconds


def peak(size: int, workers: int, threads: int) -> int:
  """Returns the most bytes of all processes; shared ones count once.

  What they share is measured at the end, when nobody writes there: the
  processes are looked at one after the other.
  """
  far = Far(3 * PREFETCH + 8, _ROWS.value, size=size, seconds=0)
  own = shared = 0
  for batch in Batches(far, num_workers=workers, num_threads=threads):
    own = max(own, memory("Pss_Anon") + memory("Pss_File"))
    shared = memory("Pss_Shmem")
    del batch
  return own + shared


def memory(name: str) -> int:
  """Returns a kind of bytes of this process and its workers, on Linux."""
  me, total = psutil.Process(), 0
  for process in (me, *me.children()):
    with contextlib.suppress(OSError):
      lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
      sizes = {line.split()[0]: line.split()[1] for line in lines[1:]}
      total += 1024 * int(sizes[f"{name}:"])
  return total


def main(argv):
  """Prints the figures."""
  del argv
  console = rich_console.Console()
  table = rich_table.Table("workers", "threads", "first batch", "limit")
  for workers, threads in ((0, 64), (4, 16)):
    seconds = first_batch(workers, threads)
    table.add_row(f"{workers}", f"{threads}", f"{seconds:.2f} s", "1.50 s")
  console.print(table)
  table = rich_table.Table("workers", "threads", "examples/s", "of the most")
  for workers, threads in ((0, 256), (4, 64), (8, 32)):
    rate = steady_rate(workers, threads)
    most = max(workers, 1) * threads / _LATENCY.value
    row = f"{workers}", f"{threads}", f"{rate:.0f}", f"{rate / most:.2f}"
    table.add_row(*row)
  console.print(table)
  size = _SIDE.value**2 * 3
  table = rich_table.Table("workers", "threads", "MB", "batches", "limit")
  for workers, threads in ((0, 2), (2, 2), (4, 16)):
    used = peak(size, workers, threads) - peak(1, workers, threads)
    batches = used / (_ROWS.value * size)
    table.add_row(
        f"{workers}",
        f"{threads}",
        f"{used / 1e6:.0f}",
        f"{batches:.2f}",
        f"{PREFETCH + 3}",
    )
  console.print(table)


if __name__ == "__main__":
  app.run(main)
