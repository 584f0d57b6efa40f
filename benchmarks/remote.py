"""Reads tars from a slow and faulty server, at a trainer's pace.

  python benchmarks/remote.py

The script makes tars, serves them from a process of its own with 50 ms before
each answer and 5% of faults (503, 429, stalls, cut and short bodies), writes
their index over the same network, and takes batches in training's order of
lanes at 1,000 samples a second. Nothing is decoded. It prints how long batches
were waited for, and requests and bytes by the server's own count, and ends with
status 1 if a target is missed or a sample was lost, doubled or damaged.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import io
import itertools
import multiprocessing
from pathlib import Path
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import Any
import zlib

from absl import app
from absl import flags
import numpy as np
from range_server import FAULTS
from range_server import RangeServer

from siglip_jax.data import blocks
from siglip_jax.data import order as orders
from siglip_jax.data.tars.opening import tar_source

_FOLDER = flags.DEFINE_string("folder", None, "where the tars are or go")
_SAMPLES = flags.DEFINE_integer("samples", 40_000, "samples of about 50 kB")
_EPOCHS = flags.DEFINE_integer("epochs", 2, "epochs to read")
_RATE = flags.DEFINE_float("rate", 1000, "samples a second")
_BATCH = flags.DEFINE_integer("batch", 256, "samples in a batch")
_LATENCY = flags.DEFINE_float("latency", 0.05, "seconds before an answer")
_FAULTS = flags.DEFINE_float("faults", 0.05, "share of faulty answers")
_STALL = flags.DEFINE_float("stall", 20, "seconds that a body stalls")
_IN_FLIGHT = flags.DEFINE_integer("in_flight", 16, "reads at the same time")
_LANES = flags.DEFINE_integer("lanes", 8, "lanes of the order")
_WINDOW = flags.DEFINE_integer("window", 8, "blocks in a window")
_CACHE_GB = flags.DEFINE_float("cache_gb", 1.0, "room for blocks")
_BLOCK_MB = flags.DEFINE_integer("block_mb", 8, "megabytes of a block")

_SHARD = 1000  # samples of a tar
_AHEAD = 4  # batches that are read before they are taken
_READERS = 32  # threads
_WAIT = 0.01  # seconds that count as no wait: the scheduler's own
_MOST_BYTES, _FEWEST_SAMPLES = 1.05, 100  # targets: of those used; a request


def main(_) -> None:
  """Makes the tars, serves and reads them, and judges the result."""
  with contextlib.ExitStack() as stack:
    temporary = stack.enter_context(tempfile.TemporaryDirectory())
    folder = Path(_FOLDER.value or temporary, "tars")
    checksums = make_tars(folder, _SAMPLES.value)
    pattern = f"{{00000..{(_SAMPLES.value - 1) // _SHARD:05d}}}.tar"
    options = {"latency": _LATENCY.value, "stall": _STALL.value}
    server = stack.enter_context(
        serving(folder, faults=_FAULTS.value, **options)
    )
    index = f"{temporary}/index"
    command = [sys.executable, "-m", "siglip_jax.data.index"]
    subprocess.run(
        [*command, f"{server.url}/{pattern}", f"--out={index}"], check=True
    )
    source = tar_source(
        f"{server.url}/{pattern}", index=index, block_mb=_BLOCK_MB.value
    )
    before = server.counts()
    result = read(source, checksums)
    after = server.counts()
    counts = {k: after[k] - before.get(k, 0) for k in after}
    tars = sum(p.stat().st_size for p in folder.glob("*.tar"))
    result["tars"] = tars * _EPOCHS.value
  sys.exit(report(result, counts))


def make_tars(folder: Path, samples: int) -> list[int]:
  """Writes tars that are not there yet; returns a checksum of each image."""
  folder.mkdir(parents=True, exist_ok=True)
  checksums = []
  for begin in range(0, samples, _SHARD):
    rng = np.random.default_rng(begin)
    path = folder / f"{begin // _SHARD:05d}.tar"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
      for number in range(begin, min(begin + _SHARD, samples)):
        image = rng.bytes(int(rng.integers(20_000, 80_000)))
        checksums.append(zlib.crc32(image))
        for suffix, data in (
            ("jpg", image),
            ("json", b'{"width": 512, "height": 384}'),
            ("txt", f"text number {number}".encode()),
        ):
          info = tarfile.TarInfo(f"{number:09d}.{suffix}")
          info.size = len(data)
          tar.addfile(info, io.BytesIO(data))
    if not path.exists() or path.stat().st_size != len(out.getbuffer()):
      path.write_bytes(out.getbuffer())
  return checksums


class Server:
  """A server in another process."""

  def __init__(self, folder: Path, options: dict[str, Any]):
    self._pipe, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    self._process = context.Process(
        target=_serve, args=(folder, options, other)
    )
    self._process.start()
    other.close()  # so that the end of the process is the end of the pipe
    self.url = self._pipe.recv()

  def counts(self) -> dict[str, int]:
    """Returns what was counted so far."""
    self._pipe.send("counts")
    return self._pipe.recv()

  def close(self) -> None:
    """Ends the server."""
    self._pipe.send("end")
    self._process.join()


def serving(folder: Path, **options: Any):
  """Serves a folder until the end of `with`."""
  return contextlib.closing(Server(folder, options))


def _serve(folder: Path, options: dict[str, Any], pipe) -> None:
  with RangeServer(folder, **options) as server:
    pipe.send(server.url)
    while pipe.recv() == "counts":
      pipe.send(dict(server.counts))


def read(source, checksums: list[int]) -> dict[str, Any]:
  """Takes batches at the pace of a trainer; returns what happened."""
  order = orders.make(
      source,
      seed=0,
      order={"lanes": _LANES.value, "window": _WINDOW.value},
  )
  turns = order.epoch // order.lanes * _EPOCHS.value
  schedule = order.schedule(range(order.lanes), 0)
  schedule = itertools.takewhile(lambda w: w.first < turns, schedule)
  begin, cpu = time.monotonic(), time.process_time()
  ahead = blocks.start(
      source,
      schedule,
      cache_gb=_CACHE_GB.value,
      in_flight=_IN_FLIGHT.value,
  )
  while ahead.coming:
    time.sleep(0.01)
  filled = time.monotonic() - begin
  waits, seen, used = [], np.zeros(len(source), int), 0
  with contextlib.closing(ahead), futures.ThreadPoolExecutor(_READERS) as pool:
    taken, due = 0, time.monotonic()
    for batch in _batches(source, order, pool, checksums, turns):
      time.sleep(max(0.0, due - time.monotonic()))
      asked = time.monotonic()
      for index, size in [future.result() for future in batch]:
        seen[index] += 1
        used += size
      waits.append(time.monotonic() - asked)
      taken += len(batch)
      due = max(due, asked + waits[-1] - _WAIT) + len(batch) / _RATE.value
      ahead.advance(taken // order.lanes)
    seconds = time.monotonic() - begin
    return {
        "filled": filled,
        "waits": np.array(waits),
        "seconds": seconds,
        "cpu": time.process_time() - cpu,
        "samples": taken,
        "used": used,
        "wrong": int((seen != _EPOCHS.value).sum()),
        "left_out": len(source) - order.epoch,
        "late": ahead.late_blocks,
        "missed": ahead.folder.missed,
    }


def _batches(source, order, pool, checksums, turns: int) -> Iterator[list]:
  """Yields batches of futures of index and bytes, with some more under way."""

  def load(position: int) -> tuple[int, int]:
    index = order.index(position)
    record = source[index]
    number = int(record["text"].split()[-1])
    if zlib.crc32(record["image"]) != checksums[number]:
      raise SystemExit(f"{source.key(index)} is damaged.")
    return index, len(record["image"])

  count = turns * order.lanes
  line = []
  for first in range(0, count, _BATCH.value):
    positions = range(first, min(first + _BATCH.value, count))
    line.append([pool.submit(load, position) for position in positions])
    if len(line) > _AHEAD:
      yield line.pop(0)
  yield from line


def report(result: dict[str, Any], counts: dict[str, int]) -> int:
  """Prints the result; returns 0 if it meets the targets."""
  samples, waits = result["samples"], result["waits"]
  late = waits[1:][waits[1:] > _WAIT]
  faults = {k: counts.get(k, 0) for k in FAULTS}
  amplification = counts["bytes"] / result["tars"]
  per_request = samples / counts["GET"]
  print(f"samples          {samples} in {result['seconds']:.1f} s")
  print(f"first blocks     {result['filled']:.1f} s until the room is full")
  print(f"first batch      {waits[0]:.2f} s after that")
  print(
      f"data wait        {late.sum():.3f} s for {len(late)} of"
      f" {len(waits) - 1} later batches, at most {max(late, default=0):.3f} s"
      " (target 0)"
  )
  print(f"requests         {counts['GET']}: {per_request:.0f} samples each")
  print(f"faults           {faults}")
  print(
      f"bytes            {counts['bytes'] / 1e6:.0f} MB for samples of"
      f" {result['tars'] / 1e6:.0f} MB in tars: {amplification:.3f} x"
      f" ({result['used'] / 1e6:.0f} MB of it images)"
  )
  print(f"lost or doubled  {result['wrong']} ({result['left_out']} left out)")
  print(
      f"late blocks      {result['late']}; reads past them {result['missed']}"
  )
  print(f"CPU              {1e3 * result['cpu'] / samples:.3f} ms a sample")
  good = (
      not late.size
      and amplification <= _MOST_BYTES
      and per_request >= _FEWEST_SAMPLES
      and result["wrong"] <= result["left_out"] * _EPOCHS.value
  )
  return 0 if good else 1


if __name__ == "__main__":
  app.run(main)
