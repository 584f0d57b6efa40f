"""Measures Parquet files as a source, and conditions on columns.

  python benchmarks/tables.py [--images=4000] [--kilobytes=45]

writes Parquet files as the Hugging Face hub has them (row groups of 100, with
bytes of images that cannot be compressed) and reads each image once: blocks are
decoded and written as training reads ahead, and records are read from them in
random order. It prints the CPU time an image, without decoding images, and that
of a condition over a million rows. It exits with 1 if a target is missed.
"""

import argparse
from pathlib import Path
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from siglip_jax.data import where
from siglip_jax.data.tables.parquet import ParquetSource

PARQUET_TARGET = 0.2  # milliseconds an image
WHERE_TARGET = 1.0  # seconds
ROWS = 1_000_000
CONDITION = (
    "min(width, height) >= 200 and max(width, height) <= 3 * min(width, height)"
    " and similarity >= 0.28 and language in ('en', 'de')"
)


class Blocks:
  """Blocks that all lie in a folder."""

  def __init__(self, folder: Path):
    self.folder = folder

  def wait(self, block: int) -> Path:
    """Returns the path of a block."""
    return self.folder / str(block)


def write(folder: Path, images: int, kilobytes: int) -> str:
  """Writes the files, of 1,000 rows each; returns their pattern."""
  rng = np.random.default_rng(0)
  for start in range(0, images, 1000):
    numbers = range(start, min(start + 1000, images))
    table = pa.table(
        {
            "image": [
                {"bytes": rng.bytes(1024 * kilobytes), "path": f"{i}.jpg"}
                for i in numbers
            ],
            "text": [
                f"a caption of about fifty letters, image {i}" for i in numbers
            ],
        }
    )
    path = folder / f"train-{start // 1000:05d}.parquet"
    pq.write_table(table, path, row_group_size=100)
  return f"{folder}/train-*.parquet"


def parquet(folder: Path, images: int, kilobytes: int) -> float:
  """Returns the CPU milliseconds an image of whole row groups."""
  source = ParquetSource(write(folder, images, kilobytes))
  source.use_blocks(Blocks(folder))
  order = np.random.default_rng(0).permutation(len(source))
  begin = time.process_time()
  for block in range(len(source.block_starts) - 1):
    source.write_block(block, folder / str(block))
  written = time.process_time()
  for index in order.tolist():
    source[index]
  end = time.process_time()
  per_image = 1000 / len(source)
  print(
      f"parquet, {kilobytes} kB an image, ms of CPU: blocks"
      f" {(written - begin) * per_image:.3f}, records"
      f" {(end - written) * per_image:.3f}"
  )
  return (end - begin) * per_image


def condition() -> float:
  """Returns the CPU seconds of a condition over a million rows."""
  rng = np.random.default_rng(0)
  languages = np.array(["en", "de", "fr", None], object)
  columns = {
      "width": rng.integers(1, 2000, ROWS, np.uint16),
      "height": rng.integers(1, 2000, ROWS, np.uint16),
      "similarity": rng.random(ROWS, np.float32),
      "language": languages[rng.integers(0, 4, ROWS)],
  }
  begin = time.process_time()
  rows = where.compile(CONDITION).select(columns)
  seconds = time.process_time() - begin
  print(f"where, {ROWS:,} rows, {rows.sum():,} chosen: {CONDITION}")
  return seconds


def main() -> int:
  """Prints the figures beside their targets; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", type=int, default=4000)
  parser.add_argument("--kilobytes", type=int, default=45)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    per_image = parquet(Path(folder), args.images, args.kilobytes)
  figures = (
      ("parquet, ms of CPU an image", per_image, PARQUET_TARGET),
      ("where, s of CPU", condition(), WHERE_TARGET),
  )
  for name, value, target in figures:
    verdict = "reached" if value <= target else "MISSED"
    print(f"{name}: {value:.3f}, target {target}: {verdict}")
  return int(any(value > target for _, value, target in figures))


if __name__ == "__main__":
  sys.exit(main())
