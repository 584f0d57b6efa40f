"""Kernels that work on one head a step, against the einsums."""

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
from siglip_jax.models.attention import by_head


@pytest.mark.parametrize(
    "batch, length, heads, head_dim, dtype",
    [
        (1, 40, 16, 72, "float32"),
        (1, 24, 16, 120, "float32"),  # nearly every head across two registers
        (2, 24, 5, 80, "float32"),  # a last register filled in part
        (1, 264, 4, 88, "float32"),  # two chunks of queries
        (1, 264, 4, 88, "bfloat16"),
        (1, 729, 2, 72, "bfloat16"),
        (1, 1024, 1, 128, "bfloat16"),
    ],
)
def test_a_head_at_a_time_equals_the_einsums(
    monkeypatch, batch, length, heads, head_dim, dtype
):
  found = blocks.Blocks(size=1, lanes=128, buffers=2, pack=1, by_head=True)
  monkeypatch.setattr(blocks, "choose", lambda *args, **options: found)
  fused = functools.partial(
      lib.fused_attention, num_heads=heads, interpret=True
  )
  einsums.check(fused, batch, length, heads, head_dim, dtype)


@pytest.mark.parametrize(
    "head_dim, first, last",
    [
        (72, [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3]),
        (88, [0, 0, 1, 2, 2, 3], [0, 1, 2, 2, 3, 4]),
        (64, [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
        (128, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_head_lies_in_one_register_or_two(head_dim, first, last):
  heads = jnp.arange(6)
  np.testing.assert_array_equal(by_head.first_tile(heads, head_dim), first)
  np.testing.assert_array_equal(by_head.last_tile(heads, head_dim), last)


@pytest.mark.tpu_compile
@pytest.mark.parametrize("length, head_dim", [(729, 72), (1024, 88)])
def test_long_rows_of_odd_heads_compile(slices, length, head_dim):
  mesh = sharding.make_mesh(devices=slices("v4:2x2x1").devices)
  x = jax.ShapeDtypeStruct(
      (8, length, 3 * 16 * head_dim),
      jnp.bfloat16,
      sharding=NamedSharding(mesh, P(sharding.BATCH_AXES)),
  )

  def run(qkv):
    assert lib.is_chosen("auto", qkv[..., : 16 * head_dim], 16)
    attention = functools.partial(lib.fused_attention, num_heads=16)
    out, vjp = jax.vjp(attention, qkv)
    return vjp(out)

  jax.jit(sharding.on_mesh(mesh, run)).lower(x).compile()
