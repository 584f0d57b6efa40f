"""Compares fused attention with XLA's, for one layer, without a TPU.

  python benchmarks/attention.py --length=729 --heads=16 --head_dim=72
  python benchmarks/attention.py --every      which lengths and heads compile

Times are estimates. For XLA's ops they come from the TPU compiler's cycles. For
a kernel they are the larger of its bytes over the bandwidth and its padded
matmuls over the peak rate.
"""

import functools

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from rich import console as rich_console
from rich import progress as rich_progress
from rich import table as rich_table

from siglip_jax import sharding
from siglip_jax.errors import UserError
from siglip_jax.models import attention as attention_lib
from siglip_jax.models.attention import xla
from siglip_jax.plan import hlo
from siglip_jax.plan import topology

_TOPOLOGY = flags.DEFINE_string("topology", "v4:2x2x1", "Slice to compile for.")
_BATCH = flags.DEFINE_integer("batch", 32, "Sequences per device.")
_LENGTH = flags.DEFINE_integer("length", 729, "Tokens per sequence.")
_HEADS = flags.DEFINE_integer("heads", 16, "Number of heads.")
_HEAD_DIM = flags.DEFINE_integer("head_dim", 72, "Width of a head.")
_EVERY = flags.DEFINE_bool(
    "every", False, "Compile all lengths and heads for all generations."
)
_SLICES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")
_LENGTHS = (16, 64, 196, 256, 576, 729, 1024)
_HEAD_DIMS = (32, 64, 72, 80, 88, 96, 104, 128)


def _einsums(qkv, *, num_heads: int):
  """Computes attention with einsums, for XLA to compile."""
  return xla.tokens_first(*jnp.split(qkv, 3, axis=-1), num_heads)


def _forward(attention, qkv, d_out):
  del d_out
  return attention(qkv)


def _backward(attention, qkv, d_out):
  """Computes the gradient; like remat, keeps nothing of the forward pass."""
  return jax.vjp(jax.checkpoint(attention), qkv)[1](d_out)[0]


def _compiled(run, where: topology.Slice, length: int, width: int):
  """Compiles `run`, a function of (queries, keys, values) and d_out."""
  mesh = sharding.make_mesh(devices=where.devices)
  rows = sharding.batch_sharding(mesh)
  batch = _BATCH.value * len(where.devices)
  args = [
      jax.ShapeDtypeStruct(
          (batch, length, n * width), jnp.bfloat16, sharding=rows
      )
      for n in (3, 1)
  ]
  step = jax.jit(sharding.on_mesh(mesh, run), out_shardings=rows)
  return step.lower(*args).compile()


def _milliseconds(run, attention, where: topology.Slice) -> tuple[str, str]:
  """Returns the milliseconds of XLA's ops and of the kernel, as text."""
  run = functools.partial(run, attention)
  width = _HEADS.value * _HEAD_DIM.value
  compiled = _compiled(run, where, _LENGTH.value, width)
  program = hlo.read(compiled.as_text() or "")
  chip = where.chip
  kernels = [
      max(k.flops / chip.flops, k.bytes / chip.bandwidth)
      for k in program.kernels
  ]
  return (
      f"{1e3 * program.cycles / chip.clock:.2f}",
      f"{1e3 * sum(kernels):.2f}" if kernels else "",
  )


def _failures(where: topology.Slice, head_dim: int) -> str:
  """Lists the lengths that do not compile, with errors, or "all compile"."""
  attention = functools.partial(
      attention_lib.fused_attention, num_heads=_HEADS.value
  )
  failed = []
  for length in _LENGTHS:
    try:
      _compiled(
          lambda qkv, d_out: jax.vjp(attention, qkv)[1](d_out)[0],
          where,
          length,
          _HEADS.value * head_dim,
      )
    except (UserError, jax.errors.JaxRuntimeError) as e:
      failed.append(f"{length}: {str(e).splitlines()[0][:80]}")
  return "; ".join(failed) or "all compile"


def _every() -> rich_table.Table:
  table = rich_table.Table(
      title=f"{_HEADS.value} heads, bfloat16, {', '.join(map(str, _LENGTHS))}"
      " tokens, forward and backward"
  )
  for column in ("slice", "head size", "lengths"):
    table.add_column(column)
  pairs = [(s, h) for s in _SLICES for h in _HEAD_DIMS]
  for name, head_dim in rich_progress.track(pairs):
    found = _failures(topology.get(name), head_dim)
    table.add_row(name, str(head_dim), found)
  return table


def main(argv):
  """Prints one line for each kind of attention and each pass."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  if _EVERY.value:
    rich_console.Console().print(_every())
    return
  where = topology.get(_TOPOLOGY.value)
  table = rich_table.Table(title=f"{where.name}, ms a layer")
  for column in ("attention", "pass", "XLA's ops", "kernel"):
    table.add_column(column, justify="right")
  for name, attention in (
      ("xla", _einsums),
      ("fused", attention_lib.fused_attention),
  ):
    attention = functools.partial(attention, num_heads=_HEADS.value)
    for run in (_forward, _backward):
      what = run.__name__.removeprefix("_")
      table.add_row(name, what, *_milliseconds(run, attention, where))
  rich_console.Console().print(table)


if __name__ == "__main__":
  app.run(main)
