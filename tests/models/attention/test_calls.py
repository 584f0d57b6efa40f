"""Kernels over whole arrays: grids, costs, and what a TPU compiles."""

import functools

import einsums
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax.models import attention as lib
from siglip_jax.models.attention import blocks
from siglip_jax.models.attention import calls


def device(vmem, mxu=128):
  return calls.Device(vmem=vmem, mxu=mxu, interpret=True)


def test_results_do_not_depend_on_the_blocks():
  qkv, d_out = einsums.inputs(2, 128, 4, 64, "float32")
  shape = (2, 128, 256)
  small, large = (
      blocks.choose(shape, "float32", 4, vmem, backward=True)
      for vmem in (7, 16)
  )
  # Half a row of one sequence; all rows, and so one output for all gradients.
  assert (small.size, small.lanes) == (1, 128)
  assert (large.size, large.lanes) == (2, 256)
  run = jax.jit(calls.backward, static_argnums=(2, 3))
  one, other = (run(qkv, d_out, 4, device(vmem)) for vmem in (7, 16))
  assert one.shape == other.shape == qkv.shape
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_kernel_has_its_name_and_tells_its_cost():
  qkv, d_out = einsums.inputs(2, 128, 4, 64, "bfloat16")

  def kernel(fn, *args):
    (found,) = [
        e
        for e in jax.make_jaxpr(fn)(*args).eqns
        if e.primitive.name == "pallas_call"
    ]
    return found.params["name"], found.params["cost_estimate"]

  for name, fn, args in (
      ("forward", calls.forward, (qkv,)),
      ("backward", calls.backward, (qkv, d_out)),
  ):
    got, cost = kernel(
        functools.partial(fn, num_heads=4, device=device(16, mxu=256)), *args
    )
    assert got == f"attention_{name}"
    moved, flops = blocks.cost(
        2, 128, 4, 64, "bfloat16", backward=name == "backward", mxu=256
    )
    assert (cost.bytes_accessed, cost.flops) == (moved, flops)
    assert cost.transcendentals == 2 * 4 * 128**2  # an exp for each pair


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("length, head_dim", [(24, 72), (16, 32), (272, 128)])
def test_odd_shapes_compile(slices, topology, length, head_dim):
  mesh = sharding.make_mesh(devices=slices(topology).devices)
  x = jax.ShapeDtypeStruct(
      (8, length, 6 * head_dim),
      jnp.bfloat16,
      sharding=NamedSharding(mesh, P(sharding.BATCH_AXES)),
  )

  def run(qkv):
    attention = functools.partial(lib.fused_attention, num_heads=2)
    out, vjp = jax.vjp(attention, qkv)
    return vjp(out)

  jax.jit(sharding.on_mesh(mesh, run)).lower(x).compile()
