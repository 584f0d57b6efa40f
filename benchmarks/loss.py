"""Compares four ways to compute the sigmoid loss and its gradients.

  python benchmarks/loss.py                        measured, on 8 CPU devices
  python benchmarks/loss.py --topology=v4:2x2x1    by the TPU compiler, no TPU

Ratios are relative to the dense loss in the same run.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import statistics
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import losses
from siglip_jax import sharding
from siglip_jax.plan import hlo
from siglip_jax.plan import topology

_TOPOLOGY = flags.DEFINE_string("topology", None, "Compile for this slice.")
_ROWS = flags.DEFINE_list("rows", None, "Global batch sizes.")
_WIDTH = flags.DEFINE_integer("width", None, "Width of the embeddings.")
_BLOCKS = flags.DEFINE_list("blocks", [], "Further ring block sizes.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timed calls of each loss.")
_AXES = sharding.BATCH_AXES


def all_gather(zimg, ztxt, t_prime, b, *, mesh):
  """Gathers all texts on every device, which scores its images (open_clip)."""

  def local(zimg, ztxt, t_prime, b):
    texts = jax.lax.all_gather(ztxt, _AXES, tiled=True)
    x = jnp.exp(t_prime) * _dot(zimg, texts) + b
    rows = jax.lax.axis_index(_AXES) * len(zimg) + jnp.arange(len(zimg))
    own = rows[:, None] == jnp.arange(x.shape[1])[None]
    total = jnp.sum(jax.nn.softplus(jnp.where(own, -x, x)))
    return jax.lax.psum(total, _AXES) / x.shape[1]

  return _sharded(local, mesh)(zimg, ztxt, t_prime, b)


def plain_ring(zimg, ztxt, t_prime, b, *, mesh):
  """Scores a chunk per hop; JAX differentiates it, recomputing the chunks."""
  n = mesh.size
  neighbour = [(i, (i + 1) % n) for i in range(n)]

  def local(zimg, ztxt, t_prime, b):
    @jax.checkpoint
    def chunk(ztxt):
      x = jnp.exp(t_prime) * _dot(zimg, ztxt) + b
      return jnp.sum(jax.nn.softplus(x))

    def hop(carry, _):
      total, ztxt = carry
      passed_on = jax.lax.ppermute(ztxt, _AXES, neighbour)
      return (total + chunk(ztxt), passed_on), None

    zero = jax.lax.pcast(jnp.float32(0), _AXES, to="varying")
    (total, _), _ = jax.lax.scan(hop, (zero, ztxt), length=n)
    positives = jnp.exp(t_prime) * jnp.sum(zimg * ztxt, axis=1) + b
    total -= jnp.sum(positives, dtype=jnp.float32)
    return jax.lax.psum(total, _AXES) / (n * len(zimg))

  return _sharded(local, mesh)(zimg, ztxt, t_prime, b)


def _dot(x, y):
  return jnp.einsum("ND,MD->NM", x, y, preferred_element_type=jnp.float32)


def _sharded(local, mesh):
  specs = (P(_AXES), P(_AXES), P(), P())
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())


def ways(mesh: jax.sharding.Mesh, blocks: Sequence[str]) -> dict[str, Callable]:
  """Returns the losses to compare, by name."""
  ring = functools.partial(losses.ring_sigmoid_loss, mesh=mesh, axis=_AXES)
  return {
      "dense": losses.sigmoid_loss,
      "all-gather": functools.partial(all_gather, mesh=mesh),
      "plain ring": functools.partial(plain_ring, mesh=mesh),
      "single-pass ring": ring,
  } | {
      f"single-pass ring, blocks of {b}": functools.partial(ring, block=int(b))
      for b in blocks
  }


def lower(loss: Callable, mesh, rows: int, width: int, dtype):
  """Lowers a loss with all four of its gradients, from shapes alone."""
  own, one = NamedSharding(mesh, P(_AXES)), NamedSharding(mesh, P())
  z = jax.ShapeDtypeStruct((rows, width), dtype, sharding=own)
  s = jax.ShapeDtypeStruct((), jnp.float32, sharding=one)
  step = jax.jit(
      jax.value_and_grad(loss, (0, 1, 2, 3)),
      out_shardings=(one, (own, own, one, one)),
  )
  return step.lower(z, z, s, s)


def compiled_table(name: str, all_rows, width: int) -> rich_table.Table:
  """Returns the peak memory and estimated cycles of each loss on a slice."""
  where = topology.get(name)
  mesh = sharding.make_mesh(devices=where.devices)
  table = _table(f"{name}, {width} wide, bfloat16, by the TPU compiler")
  for rows in all_rows:
    dense = None
    for way, loss in ways(mesh, _BLOCKS.value).items():
      try:
        compiled = lower(loss, mesh, rows, width, jnp.bfloat16).compile()
      except jax.errors.JaxRuntimeError as e:
        table.add_row(str(rows), way, "does not fit", str(e)[-80:], "", "")
        continue
      peak = compiled.memory_analysis().peak_memory_in_bytes
      cycles = hlo.read(compiled.as_text()).cycles
      dense = dense or (peak, cycles)
      _add(table, rows, way, peak, f"{cycles / 1e6:.2f} M", cycles, dense)
  return table


def measured_table(all_rows, width: int) -> rich_table.Table:
  """Returns memory and median time of each loss on eight CPU devices.

  The losses take turns.
  """
  mesh = sharding.make_mesh()
  own = NamedSharding(mesh, P(_AXES))
  table = _table(f"8 CPU devices, {width} wide, float32, measured")
  for rows in all_rows:
    keys = jax.random.split(jax.random.key(0), 2)
    z = [jax.random.normal(k, (rows, width)) / width**0.5 for k in keys]
    args = (*jax.device_put(z, own), jnp.log(10.0), jnp.float32(-10.0))
    args = (*args[:2], *jax.device_put(args[2:], NamedSharding(mesh, P())))
    programs = {
        way: lower(loss, mesh, rows, width, jnp.float32).compile()
        for way, loss in ways(mesh, _BLOCKS.value).items()
    }
    times = {way: [] for way in programs}
    for _ in range(_REPEATS.value + 1):  # the first is warm-up
      for way, program in programs.items():
        begin = time.perf_counter()
        jax.block_until_ready(program(*args))
        times[way].append(time.perf_counter() - begin)
    dense = None
    for way, program in programs.items():
      found = program.memory_analysis()
      peak = found.temp_size_in_bytes + found.argument_size_in_bytes
      seconds = statistics.median(times[way][1:])
      dense = dense or (peak, seconds)
      _add(table, rows, way, peak, f"{seconds:.3f} s", seconds, dense)
  return table


def _table(title: str) -> rich_table.Table:
  table = rich_table.Table(title=title, title_justify="left")
  for column in ("batch", "loss", "memory", "x dense", "time", "x dense"):
    table.add_column(column, justify="right")
  return table


def _add(table, rows, way, peak, shown, cost, dense):
  table.add_row(
      str(rows),
      way,
      f"{peak / 2**20:,.0f} MiB",
      f"{peak / dense[0]:.3f}",
      shown,
      f"{cost / dense[1]:.3f}",
  )


def main(argv):
  """Prints one table."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  out = rich_console.Console(highlight=False)
  if _TOPOLOGY.value:
    rows = [int(r) for r in _ROWS.value or (32768, 131072)]
    out.print(compiled_table(_TOPOLOGY.value, rows, _WIDTH.value or 1024))
  else:
    jax.config.update("jax_num_cpu_devices", 8)
    rows = [int(r) for r in _ROWS.value or (2048, 8192)]
    out.print(measured_table(rows, _WIDTH.value or 256))


if __name__ == "__main__":
  app.run(main)
