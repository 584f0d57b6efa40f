"""Reading the compiler's estimates off HLO text."""

import textwrap

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from siglip_jax import hlo
from siglip_jax import topology


def cycles(n):
  return f'backend_config={{"window_config":{{"estimated_cycles":"{n}"}}}}'


PROGRAM = textwrap.dedent(f"""\
    HloModule example, is_scheduled=true

    %fused (p.1: f32[8,128]) -> f32[8,128] {{
      %p.1 = f32[8,128]{{1,0:T(8,128)}} parameter(0)
      ROOT %sin.9 = f32[8,128]{{1,0:T(8,128)}} sine(%p.1), {cycles(999)}
    }}

    %inner_cond (c.1: (s32[], f32[8,128])) -> pred[] {{
      %n.1 = s32[]{{:T(128)}} constant(3)
      ROOT %lt.1 = pred[]{{:T(512)}} compare(%i.1, %n.1), direction=LT
    }}

    %inner_body (b.1: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
      %exp.1 = f32[8,128]{{1,0:T(8,128)}} exponential(%x.1), {cycles(7)}
      %cp.1 = (bf16[64,32]{{1,0:T(8,128)(2,1)}}, bf16[64,32]{{1,0:T(8,128)(2,1)}}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) collective-permute-start(%y.1), channel_id=1
      ROOT %t.1 = (s32[], f32[8,128]) tuple(%i.1, %exp.1)
    }}

    %outer_cond (c.2: (s32[], f32[8,128])) -> pred[] {{
      %n.2 = s32[]{{:T(128)}} constant(5)
      ROOT %lt.2 = pred[]{{:T(512)}} compare(%i.2, %n.2), direction=LT
    }}

    %outer_body (b.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
      %w.1 = (s32[]{{:T(128)}}, /*index=1*/f32[8,128]{{1,0:T(8,128)}}) while(%t.2), condition=%inner_cond, body=%inner_body
      %k.1 = bf16[16,128]{{1,0:T(8,128)(2,1)}} custom-call(%x.2), custom_call_target="tpu_custom_call", metadata={{op_name="jit(f)/attention"}}, backend_config={{"custom_call_config":{{"cost_estimate":{{"flops":1000,"transcendentals":5,"bytes_accessed":"64"}}}}}}
      ROOT %t.3 = (s32[], f32[8,128]) tuple(%i.2, %x.2)
    }}

    ENTRY %main.1 (p.2: f32[8,128]) -> f32[8,128] {{
      %p.2 = f32[8,128]{{1,0:T(8,128)}} parameter(0)
      %f.1 = f32[8,128]{{1,0:T(8,128)}} fusion(%p.2), kind=kLoop, calls=%fused, {cycles(11)}
      %w.2 = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) while(%t.4), condition=%outer_cond, body=%outer_body
      %ag.1 = f32[32,128]{{1,0:T(8,128)}} all-gather(%f.1), channel_id=2, dimensions={{0}}
      ROOT %r.1 = f32[8,128]{{1,0:T(8,128)}} add(%f.1, %f.1), {cycles(2)}
    }}
    """)


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
      name="jit(f)/attention", times=5, flops=1000, bytes=64
  )


@pytest.mark.tpu_compile
def test_a_real_program_scales_with_its_loop():
  where = topology.get("v4:2x2x1")
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
