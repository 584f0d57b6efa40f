"""Measures the index of tars: its making, its size, and reads through it.

  python benchmarks/tars_made.py OUT --samples=20000
  python benchmarks/tars_index.py 'OUT/*.tar'

CPU time of one process, the median of some rounds. The tars should be in the
page cache: the disk is not what is measured.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np

from siglip_jax.data.tars import build
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars.opening import tar_source

TARGETS = {"samples/s": 40_000, "bytes": 10, "ms": 0.10}


def indexing(tars: str) -> tuple[float, int, int]:
  """Returns CPU seconds of an index, its samples and its bytes."""
  shards, options = build.shards(tars), build.Options()
  begin = time.process_time()
  contents = [build.index_shard(shard, options) for shard in shards]
  seconds = time.process_time() - begin
  with tempfile.TemporaryDirectory() as out:
    manifest = build.build(tars, out, options, workers=1)
    size = len(manifest_lib.encode(manifest))
  return seconds, manifest.samples.sum(), size + sum(map(len, contents))


def reading(tars: str, index: str, records: int) -> float:
  """Returns CPU seconds to read records in random order."""
  source = tar_source(tars, index=index)
  rng = np.random.default_rng(0)
  order = rng.integers(len(source), size=records).tolist()
  for i in order[:1000]:
    _ = source[i]
  begin = time.process_time()
  for i in order:
    _ = source[i]
  return time.process_time() - begin


def main() -> None:
  """Prints what the command line's tars give, beside the targets."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("tars")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--records", type=int, default=20_000)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as index:
    build.build(options.tars, index, build.Options(), workers=1)
    made, read = [], []
    for _ in range(options.rounds):
      seconds, samples, size = indexing(options.tars)
      made.append(samples / seconds)
      seconds = reading(options.tars, index, options.records)
      read.append(1e3 * seconds / options.records)
  print(
      f"index: {statistics.median(made):,.0f} samples/s a core"
      f" ({min(made):,.0f} to {max(made):,.0f}; at least"
      f" {TARGETS['samples/s']:,})"
  )
  print(
      f"size: {size / samples:.2f} bytes a sample of {samples:,} (at most"
      f" {TARGETS['bytes']})"
  )
  print(
      f"reading: {statistics.median(read):.3f} CPU ms a record"
      f" ({min(read):.3f} to {max(read):.3f}; at most {TARGETS['ms']:.2f})"
  )


if __name__ == "__main__":
  main()
