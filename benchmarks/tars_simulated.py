"""An index of 400 million samples, simulated: its size, and what a start takes.

  python benchmarks/tars_simulated.py [--folder=DIR] [--samples=400000000]

Writes the index of that many samples in img2dataset's layout, jpg json txt, as
the indexing command would, except that the tables of a few shards, with sizes
drawn at random, stand for all. Each shard has an index file of its own on disk.
The tars are files of the right size without content (sparse), so that reading a
sample reads zeros: what is measured is all but the network and the images. Then
it prints what one process does until its first batch, in a fresh process.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import pickle
import resource
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import numpy as np
import psutil
from rich import progress as rich_progress

from siglip_jax.data import order as order_lib
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars import table as table_lib
from siglip_jax.data.tars.opening import tar_source
from siglip_jax.data.tars.source import BLOCK_MB

_SAMPLES = flags.DEFINE_integer("samples", 400_000_000, "Number of samples.")
_SHARDS = flags.DEFINE_integer("shards", 41_408, "Number of shards.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to write; kept if given.")
_HOSTS = flags.DEFINE_list("hosts", ["16", "1"], "Numbers of hosts to try.")
_BATCH = flags.DEFINE_integer("batch", 4096, "Examples in a global batch.")
_WINDOW = flags.DEFINE_integer(
    "window", order_lib.WINDOW, "Blocks of a window."
)
_BLOCK_MB = flags.DEFINE_integer("block_mb", BLOCK_MB, "Size of a block.")
# A start is measured in a process of its own, which has only this flag.
_START = flags.DEFINE_integer("start", 0, "Measures a start as one of N hosts.")

_TEMPLATES = 64
_LAYOUT = ("jpg", "json", "txt")
_BLOCK = 512
_LANES = 64
# Sizes as in LAION-400M at 256 px, 10 TB in all.
_MEAN_JPG, _JSON, _TXT = 24_000, (500, 900), (20, 140)


def main(argv):
  """Writes the index, measures starts, and prints both."""
  del argv
  if _START.value:
    print(json.dumps(dict(_start(Path(str(_FOLDER.value)), _START.value))))
    return
  with tempfile.TemporaryDirectory(prefix="tars_simulated") as temporary:
    folder = Path(_FOLDER.value or temporary)
    if not (folder / "index" / manifest_lib.NAME).exists():
      _write(folder)
    files = [e.stat().st_size for e in os.scandir(folder / "index")]
    manifest = (folder / "index" / manifest_lib.NAME).stat().st_size
    print(f"samples                      {_SAMPLES.value:,}")
    print(f"index files                  {len(files):,}")
    print(f"size of the index            {sum(files) / 1e9:.2f} GB")
    print(f"  of which the manifest      {manifest / 1e6:.1f} MB")
    print(f"  bytes a sample             {sum(files) / _SAMPLES.value:.2f}")
    for hosts in _HOSTS.value:
      _print_start(folder, int(hosts))


def _print_start(folder: Path, hosts: int) -> None:
  """Measures the start of one of some hosts in a fresh process."""
  flags_ = [
      f"--{f.name}={f.value}"
      for f in (_SAMPLES, _SHARDS, _BATCH, _WINDOW, _BLOCK_MB)
  ]
  command = [sys.executable, __file__, f"--folder={folder}", *flags_]
  done = subprocess.run(
      [*command, f"--start={hosts}"], capture_output=True, check=True, text=True
  )
  print(f"one process of {hosts}:")
  for name, value in json.loads(done.stdout.splitlines()[-1]).items():
    print(f"  {name:<26} {value}")


def _start(folder: Path, hosts: int) -> Iterator[tuple[str, str]]:
  """Yields what one process takes until its first batch."""
  process = psutil.Process()

  def memory() -> str:
    return f"{(process.memory_info().rss - before) / 1e6:.0f} MB"

  before, clock = process.memory_info().rss, _Clock()
  tars = str(folder / "tars" / f"{{00000..{_SHARDS.value - 1:05d}}}.tar")
  source = tar_source(
      tars, index=str(folder / "index"), split="train", block_mb=_BLOCK_MB.value
  )
  yield "samples in training", f"{len(source):,}"
  yield "blocks", f"{len(source.block_starts) - 1:,}"
  yield "open", f"{clock.lap()}, {memory()} more memory"
  order = order_lib.make(
      source,
      seed=0,
      order={"lanes": _LANES, "window": _WINDOW.value},
      batch_size=_BATCH.value,
  )
  local = _BATCH.value // hosts
  step = 200_000  # as after a resume
  base = step * _BATCH.value
  positions = [
      (base // _LANES + r % (_BATCH.value // _LANES)) * _LANES
      + r * _LANES // _BATCH.value
      for r in range(local)
  ]
  windows = []
  lanes = _LANES // hosts
  for window in order.schedule(range(lanes), base // _LANES):
    if len(windows) == lanes:
      break
    windows.append(window)
  blocks = {block for window in windows for block in window.blocks}
  yield "first windows", f"{clock.lap()}, {len(blocks):,} blocks"
  indices = [order.index(p) for p in positions]
  yield f"indices of {local:,} examples", clock.lap()
  records = [source[i] for i in indices]
  assert all(record["image"] for record in records)
  yield "places, read as zeros", f"{clock.lap()}, {memory()}"
  starts = source.block_starts
  for block in blocks:
    source[int(starts[block])]
  yield "tables of all its windows", f"{clock.lap()}, {memory()}"
  yield "peak of memory", (
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
  )
  clock.lap()
  sent = pickle.dumps(source)
  yield "sent to a worker process", f"{len(sent) / 1e6:.1f} MB, {clock.lap()}"
  pickle.loads(sent)
  yield "opened there", clock.lap()


class _Clock:
  """A stopwatch."""

  def __init__(self):
    self._begin = time.perf_counter()

  def lap(self) -> str:
    """Returns the time since the last call, in words."""
    now = time.perf_counter()
    seconds, self._begin = now - self._begin, now
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"


def _write(folder: Path) -> None:
  """Writes tars without content, and their index."""
  (folder / "tars").mkdir(parents=True, exist_ok=True)
  (folder / "index").mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  sizes = np.full(_SHARDS.value, _SAMPLES.value // _SHARDS.value)
  sizes[: _SAMPLES.value % _SHARDS.value] += 1
  templates: dict[tuple[int, int], bytes] = {}
  headers = []
  for number in rich_progress.track(range(_SHARDS.value), "Writing shards"):
    kind = (int(sizes[number]), number % _TEMPLATES)
    if kind not in templates:
      templates[kind] = _table(rng, kind[0])
    header, content = _shard(f"{number:05d}.tar", templates[kind])
    path = folder / "index" / manifest_lib.file_name(header["shard"])
    path.write_bytes(content)
    with open(folder / "tars" / header["shard"], "wb") as file:
      file.truncate(header["bytes"])
    headers.append((header, manifest_lib.digest(header, content)))
  manifest = manifest_lib.of_headers(headers, ("jpg", "png", "webp", "jpeg"))
  path = folder / "index" / manifest_lib.NAME
  path.write_bytes(manifest_lib.encode(manifest))


def _table(rng: np.random.Generator, samples: int) -> bytes:
  """Returns the index file of a shard of random samples, without its name."""
  jpg = rng.lognormal(np.log(_MEAN_JPG) - 0.18, 0.6, samples)
  json_, txt = (rng.integers(*limits, samples) for limits in (_JSON, _TXT))
  parts = np.stack([jpg, json_, txt], axis=1).astype(np.uint32)
  blocks = (-(-parts.astype(np.int64) // _BLOCK) + 1).sum(axis=1)
  held = rng.random(samples) < 0.05
  table = table_lib.Table(
      layouts=[_LAYOUT],
      layout=np.zeros(samples, np.uint8),
      start=np.concatenate([[0], np.cumsum(blocks)[:-1]]).astype(np.uint32),
      sizes=parts,
      extra=None,
      validation=held,
  )
  header = {
      "bytes": int(blocks.sum() + 2) * _BLOCK,
      "groups": [[0, int(samples - held.sum()), int(held.sum())]],
      "headers": f"{rng.integers(1 << 62):016x}",
      "suffixes": dict.fromkeys(_LAYOUT, samples),
      "counts": {"files without a sample": 0},
  } | dict(etag="", mtime=0, options={}, problem="", damages=[])
  return table_lib.encode(table, header | dict(columns=[], fields=[]))


def _shard(name: str, template: bytes) -> tuple[dict, bytes]:
  """Returns header and content of a shard's index file."""
  magic, line, rest = template.split(b"\n", 2)
  header = json.loads(line) | {"shard": name}
  line = json.dumps(header, separators=(",", ":")).encode()
  return header, b"\n".join([magic, line, rest])


if __name__ == "__main__":
  app.run(main)
