"""Compares a step of locked-image tuning on stored embeddings and on images.

  python benchmarks/lit.py                        measured, on this CPU
  python benchmarks/lit.py --topology=v4:2x2x1    by the TPU compiler, no TPU

Both forms train the same text tower on the same batch. The cached form reads
stored embeddings; in the online form the locked image tower encodes the images
in every step. Sizes on the CPU: towers of width 384 with 12 layers, images of
224 px in patches of 16, float32. --online.KEY=VALUE and --cached.KEY=VALUE
change the configs that are compiled for a topology.
"""

from collections.abc import Callable
import statistics
import time

from absl import app
from absl import flags
import jax
import ml_collections
from ml_collections import config_flags
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import run as run_lib
from siglip_jax import sharding
from siglip_jax.plan import estimate
from siglip_jax.plan import topology

_TOPOLOGY = flags.DEFINE_string("topology", None, "Compile for this slice.")
_STEPS = flags.DEFINE_integer("steps", 7, "Timed steps of each form.")
_BATCH = flags.DEFINE_integer("batch", 32, "Examples per step, on the CPU.")
_LENGTH = flags.DEFINE_integer("length", 16, "Tokens per text, on the CPU.")
_ONLINE = config_flags.DEFINE_config_file("online", "configs/l256_lit.py")
_CACHED = config_flags.DEFINE_config_file(
    "cached", "configs/l256_lit.py:embeddings=any"
)
_COLUMNS = ("form", "step", "x cached", "memory", "x cached")


def small(embedded: bool) -> ml_collections.ConfigDict:
  """Returns the small config that is measured on the CPU."""
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.microbatch = 0, 1000, 0
  c.batch_size, c.image_size, c.text_len = _BATCH.value, 224, _LENGTH.value
  c.model = dict(
      image=dict(variant="S/16"),
      text=dict(variant="S", vocab_size=8000),
      out_dim=(None, 384),
      embedded=embedded,
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(lr=1e-4, wd=1e-4, schedule=[(".*", dict(decay="none"))])
  if not embedded:
    c.optim.schedule.insert(0, ("img/.*", None))
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "replicate")]
  return c


def prepared(embedded: bool) -> tuple[Callable[[], None], float]:
  """Returns a step to time, and its memory in bytes by the compiler."""
  run = run_lib.Run(small(embedded), sharding.make_mesh())
  rng, shapes = np.random.default_rng(0), run.batch_shapes()
  batch = {
      "image": rng.integers(0, 256, shapes["image"].shape, np.uint8),
      "text": rng.integers(2, 8000, (_BATCH.value, _LENGTH.value), np.int32),
      "replaced": np.full(_BATCH.value, -1, np.int32),
  }
  if embedded:
    z = rng.normal(size=shapes["image"].shape).astype(np.float32)
    batch["image"] = z / np.linalg.norm(z, axis=1, keepdims=True)
  batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
  program = run.train_step.lower(run.state_shapes, shapes).compile()
  memory = program.memory_analysis()
  state = run.init()

  def step() -> None:
    nonlocal state
    state, _ = program(state, batch)
    jax.block_until_ready(state)

  return step, memory.temp_size_in_bytes + memory.argument_size_in_bytes


def measured() -> rich_table.Table:
  """Returns the median times of both forms, which take turns."""
  steps = {"cached": prepared(True), "online": prepared(False)}
  times = {name: [] for name in steps}
  for _ in range(_STEPS.value + 2):  # two to warm up
    for name, (step, _) in steps.items():
      begin = time.perf_counter()
      step()
      times[name].append(time.perf_counter() - begin)
  table = _table(
      f"This CPU, batch {_BATCH.value}, {_LENGTH.value} tokens, medians of"
      f" {_STEPS.value}"
  )
  _add(
      table,
      {
          name: (statistics.median(times[name][2:]), size)
          for name, (_, size) in steps.items()
      },
  )
  return table


def compiled() -> rich_table.Table:
  """Returns estimated times and peak memory per chip of both on a slice."""
  where = topology.get(_TOPOLOGY.value)
  plans = {}
  for name, flag in (("cached", _CACHED), ("online", _ONLINE)):
    run, lowered = estimate.lower(flag.value, where)
    plans[name] = estimate.compile_plan(run, lowered, where)
    batch = plans[name].global_batch
  table = _table(f"{where.name}, batch {batch:,}, estimated")
  _add(
      table,
      {
          name: (p.step_seconds_estimate, p.peak_hbm_bytes)
          for name, p in plans.items()
      },
  )
  return table


def _table(title: str) -> rich_table.Table:
  table = rich_table.Table(title=title, title_justify="left")
  for column in _COLUMNS:
    table.add_column(column, justify="right")
  return table


def _add(table: rich_table.Table, found: dict) -> None:
  seconds, size = found["cached"]
  for name, (s, b) in found.items():
    row = f"{s:.3f} s", f"{s / seconds:.2f}", f"{b / 2**30:.2f} GiB"
    table.add_row(name, *row, f"{b / size:.2f}")


def main(argv):
  """Prints one table."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  out = rich_console.Console(highlight=False)
  out.print(compiled() if _TOPOLOGY.value else measured())


if __name__ == "__main__":
  app.run(main)
