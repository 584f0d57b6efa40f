"""Reading the compiler's estimates off HLO text."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from siglip_jax.plan import hlo

# Two loops in each other (5 x 3), fusions, a kernel, and two collectives.
PROGRAM = Path("tests/fixtures/example.hlo").read_text()


def test_loops_multiply_and_fusions_count_once():
  program = hlo.read(PROGRAM)
  assert program.cycles == 11 + 2 + 5 * 3 * 7


def test_collectives_are_counted_with_their_bytes():
  assert hlo.read(PROGRAM).collectives == {
      "collective-permute": hlo.Traffic(count=15, bytes=15 * 64 * 32 * 2),
      "all-gather": hlo.Traffic(count=1, bytes=32 * 128 * 4),
  }


def test_kernels_carry_their_own_cost():
  (kernel,) = hlo.read(PROGRAM).kernels
  assert kernel == hlo.Kernel(
      name="attention_forward", times=5, flops=1000, bytes=64
  )


@pytest.mark.tpu_compile
def test_a_real_program_scales_with_its_loop(slices):
  where = slices("v4:2x2x1")
  mesh = jax.make_mesh(
      (4,), ("x",), (jax.sharding.AxisType.Auto,), devices=where.devices
  )
  shape = jax.ShapeDtypeStruct(
      (512, 512), jnp.bfloat16, sharding=NamedSharding(mesh, P("x"))
  )

  def read(times):
    def f(x):
      def body(x, _):
        x = jax.lax.ppermute(x, "x", [(i, (i + 1) % 4) for i in range(4)])
        return jnp.sin(x @ x.T) @ x, None

      return jax.lax.scan(body, x, length=times)[0]

    f = jax.shard_map(f, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    return hlo.read(jax.jit(f).lower(shape).compile().as_text())

  few, many = read(40), read(80)
  assert few.collectives["collective-permute"].count == 40
  assert many.collectives["collective-permute"].count == 80
  assert few.collectives["collective-permute"].bytes == 40 * 128 * 512 * 2
  assert many.cycles == pytest.approx(2 * few.cycles, rel=0.05)
