"""Compares a train step on this CPU with transformers' SiglipModel and AdamW.

  pip install -e '.[parity]' && python benchmarks/train_step.py

The model is SigLIP S/16 at 224 px, with 64 tokens, batch 16, in float32. Each
side runs in its own process. The two take turns, one step each, so that a busy
machine slows both. Peak memory is the process's largest resident set.
"""

from collections.abc import Callable
from collections.abc import Iterator
import multiprocessing
import resource
import statistics
import time

from absl import app
from absl import flags
import numpy as np
from rich import console as rich_console
from rich import progress as rich_progress

_STEPS = flags.DEFINE_integer("steps", 15, "Timed steps of each side.")
_BATCH = flags.DEFINE_integer("batch", 16, "Examples per step.")
_SIDE, _LENGTH, _VOCAB = 224, 64, 32_000
_LR, _WD = 1e-4, 1e-4


def batches(size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields random images (uint8) and texts, the same on both sides."""
  rng = np.random.default_rng(0)
  while True:
    image = rng.integers(0, 256, (size, _SIDE, _SIDE, 3), np.uint8)
    yield image, rng.integers(2, _VOCAB, (size, _LENGTH), np.int32)


def ours(size: int) -> Callable[[], float]:
  """Returns this project's own step, as `main` runs it."""
  import jax
  import ml_collections

  from siglip_jax import run as run_lib
  from siglip_jax import sharding

  jax.config.update("jax_platforms", "cpu")
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.batch_size, c.microbatch = 0, 1000, size, 0
  c.image_size, c.text_len = _SIDE, _LENGTH
  c.model = dict(
      image=dict(variant="S/16"),
      text=dict(variant="S", vocab_size=_VOCAB),
      out_dim=(None, 384),
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(lr=_LR, wd=_WD, schedule=[(".*", dict(decay="none"))])
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "replicate")]
  run = run_lib.Run(c, sharding.make_mesh())
  rows = sharding.batch_sharding(run.mesh)
  state, data = run.init(), batches(size)

  def step() -> float:
    nonlocal state
    image, text = next(data)
    replaced = np.full(size, -1, np.int32)
    batch = {"image": image, "text": text, "replaced": replaced}
    state, metrics = run.train_step(state, jax.device_put(batch, rows))
    jax.block_until_ready(state)
    return float(metrics["train/loss"])

  return step


def theirs(size: int) -> Callable[[], float]:
  """Returns a step of transformers and torch: the usual loop, fused AdamW."""
  import torch
  import transformers

  sizes = dict(
      hidden_size=384,
      intermediate_size=1536,
      num_hidden_layers=12,
      num_attention_heads=6,
  )
  torch.manual_seed(0)
  model = transformers.SiglipModel(
      transformers.SiglipConfig(
          text_config=dict(
              vocab_size=_VOCAB, max_position_embeddings=_LENGTH, **sizes
          ),
          vision_config=dict(image_size=_SIDE, patch_size=16, **sizes),
      )
  ).train()
  optimizer = torch.optim.AdamW(
      model.parameters(), lr=_LR, weight_decay=_WD / _LR, fused=True
  )
  data = batches(size)

  def step() -> float:
    image, text = next(data)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    loss = model(
        input_ids=torch.from_numpy(text).long(),
        pixel_values=pixels,
        return_loss=True,
    ).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())

  return step


def _serve(make, size: int, pipe) -> None:
  """Runs a step on each request, and sends (seconds, loss, peak bytes)."""
  step = make(size)
  while pipe.recv():
    begin = time.perf_counter()
    loss = step()
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send((seconds, loss, peak))


def main(argv):
  """Prints both medians and their ratio."""
  del argv
  context = multiprocessing.get_context("spawn")
  sides = {"siglip_jax": ours, "transformers": theirs}
  pipes, found = {}, {name: [] for name in sides}
  for name, make in sides.items():
    pipes[name], other = context.Pipe()
    context.Process(
        target=_serve, args=(make, _BATCH.value, other), daemon=True
    ).start()
  for i in rich_progress.track(range(_STEPS.value + 3), "steps"):
    for name, pipe in pipes.items():
      pipe.send(True)
      answer = pipe.recv()
      if i >= 3:  # compiling and warming up
        found[name].append(answer)
  for pipe in pipes.values():
    pipe.send(False)
  out = rich_console.Console(highlight=False)
  medians = {}
  for name, answers in found.items():
    seconds, losses, peaks = zip(*answers, strict=True)
    medians[name] = statistics.median(seconds)
    out.print(
        f"{name:12s} {medians[name]:.3f} s a step (median of {len(seconds)},"
        f" {min(seconds):.3f} to {max(seconds):.3f}), peak memory"
        f" {max(peaks) / 2**30:.2f} GiB, last loss {losses[-1]:.3f}"
    )
  ratio = medians["siglip_jax"] / medians["transformers"]
  out.print(f"siglip_jax / transformers: {ratio:.3f}")


if __name__ == "__main__":
  app.run(main)
