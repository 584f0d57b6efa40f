"""Peak memory of a train step by batch size, from the TPU compiler.

  python benchmarks/memory.py --config=configs/l256_lit.py

With microbatches, only the inputs, the embeddings and the loss's blocks should
grow with the batch. Transformer blocks are scanned here, which compiles fast.
"""

from absl import app
from absl import flags
import jax
from ml_collections import config_flags
from rich import console as rich_console
from rich import progress as rich_progress
from rich import table as rich_table

from siglip_jax.plan import estimate
from siglip_jax.plan import topology

_CONFIG = config_flags.DEFINE_config_file("config", "configs/b16_4k.py")
_TOPOLOGY = flags.DEFINE_string("topology", "v4:2x2x1", "Slice to compile for.")
_BATCHES = flags.DEFINE_list(
    "batches", [4096, 32768, 131072], "Global batch sizes."
)


def main(argv):
  """Prints one line per batch size."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  where = topology.get(_TOPOLOGY.value)
  table = rich_table.Table(title=f"{where.name}, GiB a device")
  for column in ("batch", "microbatch", "peak", "inputs", "all but inputs"):
    table.add_column(column, justify="right")
  for batch in rich_progress.track([int(b) for b in _BATCHES.value]):
    config = _CONFIG.value.copy_and_resolve_references()
    with config.unlocked():
      config.batch_size = batch
      config.model.scan = True
      # Schedules count in steps, so even the shortest run must fit its warm-up.
      config.total_steps = max(config.total_steps, 100_000)
    run, lowered = estimate.lower(config, where)
    plan = estimate.compile_plan(run, lowered, where)
    gib = [plan.peak_hbm_bytes, plan.parts["inputs"]]
    gib = [b / 2**30 for b in (*gib, gib[0] - gib[1])]
    table.add_row(
        f"{batch:,}", str(plan.microbatch), *(f"{g:.2f}" for g in gib)
    )
  rich_console.Console().print(table)


if __name__ == "__main__":
  app.run(main)
