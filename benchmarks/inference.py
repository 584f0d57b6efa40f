"""Compares encode_image and encode_text with transformers', on this CPU.

  python benchmarks/inference.py [--variant=siglip-b16-256] [--batch=8]

Random weights with a released model's sizes are written as a transformers
folder, and both sides read it. Prepared images and token ids go in, embeddings
come out. The two sides take turns, and the ratio is that of the medians. The
first row times a fresh process of each side, up to its first embedding.

The table also shows the ratio of CPU times, which other programs on the machine
affect less. But threads that wait for each other spin, so pin the process to
one core (taskset -c 0) before you read CPU times. Needs the extra [parity].
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import os
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags
import jax
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

import siglip_jax
from siglip_jax import cli
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import hf_processor
from siglip_jax.weights import transformers

_VARIANT = flags.DEFINE_string("variant", "siglip-b16-256", "Model sizes.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images, and texts, per batch.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "Timed turns of each side, after one unmeasured."
)
_STARTS = flags.DEFINE_integer("starts", 3, "Timed fresh starts of each side.")

# Programs that load the model in a folder and make one embedding.
_OURS = """
import numpy as np, siglip_jax
model = siglip_jax.load({folder!r})
model.encode_image(np.zeros((1, {side}, {side}, 3), np.float32))
"""
_THEIRS = """
import torch, transformers
model = transformers.SiglipModel.from_pretrained({folder!r}).eval()
with torch.inference_mode():
  model.get_image_features(pixel_values=torch.zeros(1, 3, {side}, {side}))
"""


def write_folder(folder: Path, variant: zoo.Variant) -> None:
  """Writes random weights with a variant's sizes as a transformers folder."""
  model, side = TwoTowers(**variant.model), variant.image_size
  init = jax.jit(lambda key: model.init(key, (side, side, 3), variant.text_len))
  params = jax.device_get(init(jax.random.key(0)))
  transformers.write(folder, params, image_size=side)
  hf_processor.write(folder, variant.transformers.image, side)


def transformers_model(folder: Path) -> tuple[Callable, Callable]:
  """Returns transformers' encoders.

  Returns:
    Two functions: (images, channels last) -> embeddings, and (token ids) ->
    embeddings.
  """
  import torch
  import transformers

  model = transformers.SiglipModel.from_pretrained(folder).eval()

  def normalised(features):
    z = getattr(features, "pooler_output", features)
    return (z / z.norm(dim=-1, keepdim=True)).numpy()

  def encode_image(images):
    with torch.inference_mode():
      pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
      return normalised(model.get_image_features(pixel_values=pixels))

  def encode_text(ids):
    with torch.inference_mode():
      ids = torch.from_numpy(ids.astype(np.int64))
      return normalised(model.get_text_features(input_ids=ids))

  return encode_image, encode_text


def take_turns(functions: Sequence[Callable], rounds: int) -> np.ndarray:
  """Returns the seconds of each call, after one unmeasured round.

  The functions take turns.

  Returns:
    An array of shape (functions, rounds, 2); the last axis is wall clock and
    CPU time.
  """
  found = np.zeros((len(functions), rounds + 1, 2))
  for i in range(rounds + 1):
    for f, seconds in zip(functions, found[:, i], strict=True):
      begin = _clocks()
      f()
      seconds[:] = _clocks() - begin
  return found[:, 1:]


def _clocks() -> np.ndarray:
  """Returns wall clock, and CPU time of this process and its ended children."""
  used = [
      resource.getrusage(who)
      for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  cpu = sum(u.ru_utime + u.ru_stime for u in used)
  return np.array([time.perf_counter(), cpu])


def start(code: str, folder: Path, side: int) -> None:
  """Runs one side's program in a process of its own."""
  subprocess.run(
      [sys.executable, "-c", code.format(folder=str(folder), side=side)],
      check=True,
      stderr=subprocess.DEVNULL,
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  del argv
  variant, n = zoo.get(_VARIANT.value), _BATCH.value
  side, rng = variant.image_size, np.random.default_rng(0)
  cores = len(os.sched_getaffinity(0))
  table = rich_table.Table(
      title=f"{variant.name}, batch {n}, float32, {cores} cores, load"
      f" {os.getloadavg()[0]:.1f}: medians of {_ROUNDS.value} turns",
      title_justify="left",
  )
  columns = "siglip_jax", "transformers", "ratio", "of turns", "ratio, CPU"
  for column in ("what", *columns):
    table.add_column(column, justify="right")
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_folder(folder, variant)
    codes = [
        functools.partial(start, c, folder, side) for c in (_OURS, _THEIRS)
    ]
    _add(table, "seconds to start", take_turns(codes, _STARTS.value))
    ours = siglip_jax.load(folder, batch_size=n)
    theirs = transformers_model(folder)
    images = rng.uniform(-1, 1, (n, side, side, 3)).astype(np.float32)
    ids = rng.integers(0, 30_000, (n, variant.text_len), np.int32)
    for what, pair, x in (
        ("images/s", (ours.encode_image, theirs[0]), images),
        ("texts/s", (ours.encode_text, theirs[1]), ids),
    ):
      difference = np.abs(pair[0](x) - pair[1](x)).max()
      assert difference < 1e-4, f"not the same model: {difference}"
      calls = [functools.partial(f, x) for f in pair]
      _add(table, what, take_turns(calls, _ROUNDS.value), count=n)
  rich_console.Console(width=100).print(table)


def _add(table, what: str, times: np.ndarray, *, count: int = 0) -> None:
  """Adds a row of rates or seconds, and how many times faster siglip_jax is."""
  ours, theirs = np.median(times, axis=1)
  turns = times[1, :, 0] / times[0, :, 0]
  shown = [count / x[0] if count else x[0] for x in (ours, theirs)]
  table.add_row(
      what,
      *(f"{x:.2f}" for x in shown),
      f"{theirs[0] / ours[0]:.2f}",
      f"{turns.min():.2f} to {turns.max():.2f}",
      f"{theirs[1] / ours[1]:.2f}",
  )


if __name__ == "__main__":
  cli.main(main)
