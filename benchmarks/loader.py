"""Compares the loader's CPU time an image with an older checkout's and others'.

  python benchmarks/loader.py --base=CHECKOUT [--gil] [--beside=PYTHON]

makes JPEGs of 256 to 512 pixels on their short side, without a camera: smooth
noise of all sizes under translucent polygons, 41 kB each. All sides read them
from files and make batches of 224 x 224 pixels, with 2 threads or processes.
They take turns of a second, each in a process of its own that was warmed up.
The CPU time of a run of two batches is subtracted from that of a longer one, so
that starting does not count. It is that of all processes and threads of a side,
in milliseconds an image.

--base is a checkout of this project to compare with, --gil also measures how
long Python's lock is held (with py-spy), and --beside is a Python that has
tensorflow, webdataset and torch.
"""

import argparse
from collections.abc import Callable
import hashlib
import io
import json
import os
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

SIDE, BATCH, THREADS = 224, 64, 2
FILES = 512
_DECODE = f"decode(near={SIDE})|resize({SIDE}"
# Arms of a checkout of this project: preprocessing string.
STRINGS = {
    "pillow": f"{_DECODE})",
    "simplejpeg": f"{_DECODE})",
    "area": f"{_DECODE}, 'area')",
    "area_cv2": f"{_DECODE}, 'area_cv2')",
    "no antialias": f"{_DECODE}, antialias=False)",
}
# Arm -> its arm of --base, and the target for the ratio of both.
TARGETS = {
    "pillow": ("pillow", 0.78),
    "simplejpeg": ("pillow", 0.68),
    "area": ("pillow", None),
    "area_cv2": ("pillow", 0.60),
    "no antialias": ("no antialias", None),
}
# Arm of --beside -> the target for simplejpeg's ratio to it.
BESIDE = {"tf.data": 1.0, "tf.data, no antialias": None, "webdataset": 0.4}
GIL_TARGET = 0.40  # milliseconds an image
_GIL_RATE = 250  # samples a second


def image(rng: np.random.Generator) -> np.ndarray:
  """Returns an image with edges, and with details of every size."""
  import cv2

  short = int(rng.integers(256, 513))
  size = [short, int(short * rng.uniform(1, 1.5))]
  h, w = rng.permutation(size).tolist()
  x, cells = np.full((h, w, 3), 128, np.float32), 2
  while cells < max(h, w):
    layer = rng.standard_normal((cells, cells, 3)).astype(np.float32)
    layer = 0.35 * layer + 0.9 * layer.mean(2, keepdims=True)
    layer = cv2.resize(layer, (w, h), interpolation=cv2.INTER_CUBIC)
    x += layer * 60 / cells**0.5
    cells *= 2
  x = np.clip(x, 0, 255).astype(np.uint8)
  for _ in range(rng.integers(3, 12)):
    corners = rng.random((rng.integers(3, 7), 2)) * (w, h)
    color = rng.integers(0, 256, 3).tolist()
    over = cv2.fillPoly(x.copy(), [corners.astype(np.int32)], color)
    share = rng.uniform(0.2, 0.8)
    x = cv2.addWeighted(over, share, x, 1 - share, 0)
  return x


def write(folder: Path) -> None:
  """Writes the JPEGs with captions, and the same as two tar shards."""
  from PIL import Image

  rng, sizes = np.random.default_rng(0), []
  (folder / "images").mkdir(parents=True)
  shards = [tarfile.open(folder / f"{i}.tar", "w") for i in range(2)]
  for i in range(FILES):
    out = io.BytesIO()
    Image.fromarray(image(rng)).save(out, "jpeg", quality=90)
    for end, data in (("jpg", out.getvalue()), ("txt", b"noise")):
      (folder / "images" / f"{i:04}.{end}").write_bytes(data)
      member = tarfile.TarInfo(f"{i:04}.{end}")
      member.size = len(data)
      shards[i % 2].addfile(member, io.BytesIO(data))
    sizes.append(len(out.getvalue()))
  for shard in shards:
    shard.close()
  print(f"{FILES} JPEGs, {np.mean(sizes) / 1000:.0f} kB on average")


def own_batches(arm: str, folder: Path, images: int):
  """Yields the image batches of the checkout on PYTHONPATH."""
  from siglip_jax.data import folders
  from siglip_jax.data import pipeline
  from siglip_jax.data.preprocess import Preprocess

  if arm == "pillow":
    _without_simplejpeg()
  source = folders.folder_source(folder / "images", "train")
  batches = pipeline.train_iterator(
      source,
      Preprocess(f"{STRINGS[arm]}|keep('image')"),
      batch_size=BATCH,
      seed=0,
      total_steps=images // BATCH,
      num_threads=THREADS,
  )
  for batch in batches:
    yield batch["image"]


def _without_simplejpeg() -> None:
  """Makes Pillow decode all JPEGs, as if each were damaged."""
  try:
    import simplejpeg
  except ImportError:
    return

  def refuse(*args, **kwargs):
    raise ValueError("not in this arm")

  simplejpeg.decode_jpeg = refuse


def tf_batches(folder: Path, images: int, *, antialias: bool):
  """Yields batches of tf.data, as big_vision reads and resizes."""
  import tensorflow as tf

  def load(path):
    x = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    x = tf.image.resize(x, (SIDE, SIDE), "bilinear", antialias=antialias)
    return tf.cast(x, tf.uint8)

  paths = sorted(str(p) for p in (folder / "images").glob("*.jpg"))
  options = tf.data.Options()
  options.threading.private_threadpool_size = THREADS
  data = tf.data.Dataset.from_tensor_slices(paths).shuffle(FILES).repeat()
  data = data.map(load, num_parallel_calls=THREADS).batch(BATCH)
  data = data.take(images // BATCH).prefetch(2).with_options(options)
  yield from data.as_numpy_iterator()


def webdataset_batches(folder: Path, images: int):
  """Yields batches of webdataset and torch, as open_clip reads and resizes."""
  from PIL import Image
  import torch
  import webdataset

  mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)

  def prepare(photo):
    photo = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    return (x.float().div(255) - mean) / std

  shards = [str(folder / f"{i}.tar") for i in range(2)]
  data = (
      webdataset.WebDataset(shards, shardshuffle=False)
      .shuffle(FILES)
      .decode("pilrgb")
      .to_tuple("jpg", "txt")
      .map_tuple(prepare, lambda text: text)
      .batched(BATCH, partial=False)
      .repeat()
      .with_epoch(images // BATCH // THREADS)  # of each process
  )
  loader = webdataset.WebLoader(data, batch_size=None, num_workers=THREADS)
  for x, _ in loader:
    yield x.numpy()


def measure(arm: str, folder: Path, images: int) -> dict:
  """Returns CPU milliseconds an image, and a digest of the first batch."""
  function: Callable = {
      "tf.data": lambda n: tf_batches(folder, n, antialias=True),
      "tf.data, no antialias": lambda n: tf_batches(folder, n, antialias=False),
      "webdataset": lambda n: webdataset_batches(folder, n),
  }.get(arm, lambda n: own_batches(arm, folder, n))
  seconds, digest = [], ""
  least = THREADS * BATCH  # something for each
  for number in (least, least + images):
    before = _cpu()
    for i, x in enumerate(function(number)):
      if not i:
        digest = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
    seconds.append(_cpu() - before)
  return {"ms": 1000 * (seconds[1] - seconds[0]) / images, "digest": digest}


def _cpu() -> float:
  """Returns the CPU seconds of this process and of its children that ended."""
  every = map(
      resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return sum(usage.ru_utime + usage.ru_stime for usage in every)


def serve(options) -> None:
  """Measures an arm once for each line of the input, after a warm-up."""
  folder = Path(options.folder)
  measure(options.arm, folder, BATCH)
  for _ in sys.stdin:
    print(json.dumps(measure(options.arm, folder, options.images)), flush=True)


def start(options, arm: str, python: str, checkout: str, before=()):
  """Starts a process of `serve`."""
  command = [*before, python, __file__, f"--arm={arm}"]
  command += [f"--folder={options.folder}", f"--images={options.images}"]
  environment = os.environ | {"PYTHONPATH": checkout}
  environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
      command,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
  )


def turn(process: subprocess.Popen) -> dict:
  """Has a process measure its arm once."""
  assert process.stdin is not None and process.stdout is not None
  process.stdin.write("go\n")
  process.stdin.flush()
  for line in process.stdout:
    if line.startswith("{"):
      return json.loads(line)
  raise SystemExit("A process ended early; its reason is above.")


def gil(options, arm: str, checkout: str) -> float:
  """Returns the milliseconds an image for which Python's lock is held.

  It is the CPU time of the arm's threads times the share of py-spy's samples of
  them in which one holds the lock.
  """
  counts, ms = [], 0.0
  for more in (["--gil"], []):
    with tempfile.NamedTemporaryFile() as out:
      spy = ["py-spy", "record", "--format=raw", f"--rate={_GIL_RATE}"]
      spy += [f"--output={out.name}", *more, "--"]
      process = start(options, arm, sys.executable, checkout, spy)
      ms = turn(process)["ms"]
      process.communicate()
      stacks = Path(out.name).read_text().splitlines()
    counts.append(sum(map(_samples, stacks)))
  return ms * counts[0] / counts[1]


def _samples(stack: str) -> int:
  """Returns the samples of a line of py-spy, or 0 if it is not of the loader.

  Imports are not, and neither is what the main thread does before.
  """
  frames, count = stack.rsplit(" ", 1)
  loads = "measure (" in frames and "importlib" not in frames
  return int(count) if loads or "_bootstrap (threading" in frames else 0


def main() -> None:
  """Measures one arm, or all of them in turns."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--base", help="An older checkout.")
  parser.add_argument("--beside", help="A Python with tensorflow and torch.")
  parser.add_argument("--gil", action="store_true", help="Measure the lock.")
  parser.add_argument(
      "--images", type=int, default=256, help="Images in a turn."
  )
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--folder", help="Where the JPEGs are, or are written.")
  parser.add_argument("--arm", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.arm:
    serve(options)
    return
  with tempfile.TemporaryDirectory() as place:
    options.folder = options.folder or f"{place}/set"
    if not Path(options.folder).exists():
      write(Path(options.folder))
    compare(options)


def compare(options) -> None:
  """Runs the arms in turns, and prints their times and ratios."""
  here = str(Path(__file__).parents[1])
  arms = {("new", arm): (sys.executable, here) for arm in STRINGS}
  if options.base:
    for arm in sorted({old for old, _ in TARGETS.values()}):
      arms["base", arm] = sys.executable, options.base
  if options.beside:
    arms |= {("beside", arm): (options.beside, "") for arm in BESIDE}
  processes = {k: start(options, k[1], *where) for k, where in arms.items()}
  times: dict = {key: [] for key in arms}
  digests = {}
  for number in range(options.rounds):
    for key, process in processes.items():
      result = turn(process)
      times[key].append(result["ms"])
      digests[key] = result["digest"]
    print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
  for process in processes.values():
    process.communicate()
  ms = {key: statistics.median(values) for key, values in times.items()}
  print(f"{'CPU ms an image':32}{'median':>8}{'least':>8}{'most':>8}")
  for key, values in times.items():
    print(
        f"{' '.join(key):32}{ms[key]:8.2f}{min(values):8.2f}{max(values):8.2f}"
    )
  print(f"\n{'ratio':52}{'is':>6}{'target':>8}")
  for arm, (old, target) in TARGETS.items():
    if options.base:
      ratio = ms["new", arm] / ms["base", old]
      same = digests["new", arm] == digests["base", old]
      what = f"new {arm} / base {old}{', identical bytes' if same else ''}"
      _row(what, ratio, target)
  for arm, target in BESIDE.items() if options.beside else ():
    ratio = ms["new", "simplejpeg"] / ms["beside", arm]
    _row(f"new simplejpeg / {arm}", ratio, target)
  if options.gil:
    for where in filter(None, (options.base, here)):
      name = "new simplejpeg" if where == here else "base"
      value = gil(options, "simplejpeg", where)
      target = GIL_TARGET if where == here else None
      _row(f"ms of Python's lock, {name}", value, target)


def _row(what: str, value: float, target: float | None) -> None:
  mark = "" if target is None else f"{target:8.2f}"
  missed = target is not None and value > target
  print(f"{what:52}{value:6.2f}{mark}{'  missed' if missed else ''}")


if __name__ == "__main__":
  main()
