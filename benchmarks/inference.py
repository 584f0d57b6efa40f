"""encode_image and encode_text beside transformers', on this CPU.

  python benchmarks/inference.py [--variant=siglip-b16-256] [--batch=8]

Random weights of a released model's sizes are written as a transformers folder
and read by both. Prepared pictures and token ids go in, embeddings come out;
the two take turns, and the ratio is of medians. Then each starts anew in a
process of its own, up to its first embedding. Needs the extra [parity].
"""

from collections.abc import Callable
from collections.abc import Sequence
import os
from pathlib import Path
import statistics
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
from siglip_jax.convert import hf_processor
from siglip_jax.convert import huggingface
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers

_VARIANT = flags.DEFINE_string("variant", "siglip-b16-256", "Sizes.")
_BATCH = flags.DEFINE_integer("batch", 8, "Pictures, and texts, at a time.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns each, after one unmeasured.")
_STARTS = flags.DEFINE_integer("starts", 3, "Fresh starts each.")

# From nothing to the first embedding; {} is the folder.
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
  """Random weights of a variant's sizes, as transformers reads them."""
  model, side = TwoTowers(**variant.model), variant.image_size
  init = jax.jit(lambda key: model.init(key, (side, side, 3), variant.text_len))
  params = jax.device_get(init(jax.random.key(0)))
  huggingface.write(folder, params, image_size=side)
  hf_processor.write(folder, variant.transformers.image, side)


def transformers_model(folder: Path) -> tuple[Callable, Callable]:
  """(images, channels last) -> embeddings and (ids) -> embeddings."""
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


def take_turns(
    functions: Sequence[Callable], x: np.ndarray
) -> list[list[float]]:
  """Seconds of each call, the functions one after the other in each round."""
  for f in functions:
    f(x)
  times: list[list[float]] = [[] for _ in functions]
  for _ in range(_ROUNDS.value):
    for f, seconds in zip(functions, times, strict=True):
      begin = time.perf_counter()
      f(x)
      seconds.append(time.perf_counter() - begin)
  return times


def starts(folder: Path, side: int) -> list[list[float]]:
  """Seconds of whole processes, ours and theirs in turns."""
  times: list[list[float]] = [[], []]
  for _ in range(_STARTS.value):
    for code, seconds in zip((_OURS, _THEIRS), times, strict=True):
      begin = time.perf_counter()
      subprocess.run(
          [sys.executable, "-c", code.format(folder=str(folder), side=side)],
          check=True,
          stderr=subprocess.DEVNULL,
      )
      seconds.append(time.perf_counter() - begin)
  return times


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  del argv
  variant, n = zoo.get(_VARIANT.value), _BATCH.value
  side, rng = variant.image_size, np.random.default_rng(0)
  table = rich_table.Table(
      title=f"{variant.name}, batch {n}, float32, {os.cpu_count()} cores, load"
      f" {os.getloadavg()[0]:.1f}: medians of {_ROUNDS.value} turns",
      title_justify="left",
  )
  for column in ("what", "siglip_jax", "transformers", "ratio", "of turns"):
    table.add_column(column, justify="right")
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_folder(folder, variant)
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
      _add(table, what, take_turns(pair, x), count=n)
    del ours, theirs
    _add(table, "starts/s", starts(folder, side), count=1)
  rich_console.Console(width=100).print(table)


def _add(table, what: str, times: list[list[float]], *, count: int) -> None:
  """A row: rates, the ratio of medians, and the range of the turns' ratios."""
  ours, theirs = (statistics.median(t) for t in times)
  turns = [b / a for a, b in zip(*times, strict=True)]
  table.add_row(
      what,
      f"{count / ours:.2f}",
      f"{count / theirs:.2f}",
      f"{theirs / ours:.2f}",
      f"{min(turns):.2f} to {max(turns):.2f}",
  )


if __name__ == "__main__":
  cli.run(main)
