"""Blocks that fit in VMEM, and what kernels over them cost."""

import jax.numpy as jnp
import pytest

from siglip_jax.errors import UserError
from siglip_jax.models.attention import blocks


@pytest.mark.parametrize("length", [196, 256, 576, 729, 1024])
@pytest.mark.parametrize("head_dim", [32, 64, 72, 80, 88, 128])
def test_any_head_size_finds_blocks_at_any_length(length, head_dim):
  for heads in (3, 16):
    for vmem in (16, 64, 128):
      for backward in (False, True):
        found = blocks.choose(
            (6, length, heads * head_dim),
            "bfloat16",
            heads,
            vmem,
            backward=backward,
        )
        assert (
            6 % found.size == 0
            and heads * head_dim % found.lanes == 0
            or (found.by_head)
        )
        rows_fit = vmem > 64 or head_dim % 32 == 0
        assert not (found.by_head and rows_fit)


def test_long_rows_of_odd_heads_go_a_head_at_a_time():
  so400m = ((8, 729, 1152), "bfloat16", 16)
  assert blocks.choose(*so400m, 16, backward=True).by_head
  assert not blocks.choose(*so400m, 64, backward=True).by_head
  with pytest.raises(UserError, match="heads of 144 needs"):
    blocks.choose((8, 1024, 1296), "bfloat16", 9, 16, backward=True)


def test_cost_counts_padding():
  moved, flops = blocks.cost(2, 196, 12, 64, jnp.bfloat16, backward=False)
  assert moved == 2 * 4 * 200 * 768 * 2
  assert flops == 2 * 12 * 2 * (2 * 200 * 128 * 256)
  moved, flops = blocks.cost(2, 196, 12, 64, jnp.bfloat16, backward=True)
  assert moved == 2 * 7 * 200 * 768 * 2
  assert flops == 2 * 12 * 2 * (5 * 200 * 128 * 256)
  # Eight captions of 16 tokens to a map; heads of 72 across two registers.
  assert (
      blocks.cost(8, 16, 2, 64, jnp.bfloat16, backward=False)[1] == 8 * 128**3
  )
  narrow, wide = (
      blocks.cost(1, 128, n, 72, jnp.bfloat16, backward=False)[1]
      for n in (1, 2)
  )
  assert wide == 3 * narrow
  moved, flops = blocks.cost(
      1, 128, 16, 72, jnp.bfloat16, backward=True, by_head=True
  )
  assert moved == (2 * 4 + 3) * 128 * 1152 * 2
  assert flops == (8 + 2 * 8) * 5 * 2 * 128**3  # half the heads lie across two
