"""Kernels over whole rows of heads, against the einsums."""

import functools

import einsums
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax.models import attention as lib
from siglip_jax.models.attention import blocks
from siglip_jax.models.attention import by_rows


@pytest.mark.parametrize(
    "batch, length, heads, head_dim",
    [
        (2, 50, 4, 64),  # two heads share a register
        (1, 197, 2, 64),
        (2, 24, 3, 64),  # an odd head is alone in half a register
        (2, 33, 4, 32),
        (1, 40, 3, 72),  # heads across two registers
        (1, 40, 16, 88),
        (2, 24, 1, 128),
        (1, 264, 2, 72),  # two chunks of queries
        (1, 264, 4, 64),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_einsums(batch, length, heads, head_dim, dtype):
  fused = functools.partial(
      lib.fused_attention, num_heads=heads, interpret=True
  )
  einsums.check(fused, batch, length, heads, head_dim, dtype)


@pytest.mark.parametrize("length, head_dim", [(729, 72), (1024, 32)])
def test_long_rows_equal_the_einsums(length, head_dim):
  fused = functools.partial(lib.fused_attention, num_heads=2, interpret=True)
  einsums.check(fused, 1, length, 2, head_dim, "float32")


@pytest.mark.parametrize("length, pack", [(16, 8), (64, 2), (48, 2), (8, 1)])
def test_short_sequences_share_a_map(length, pack):
  assert blocks.packed(16, length, "bfloat16") == pack
  qkv, d_out = einsums.inputs(16, length, 2, 64, "bfloat16")
  fused = functools.partial(lib.fused_attention, num_heads=2, interpret=True)
  found = einsums.values_and_gradients(fused, qkv, d_out)
  alone = [
      einsums.values_and_gradients(fused, qkv[i : i + 1], d_out[i : i + 1])
      for i in (0, 5, 15)
  ]
  for together, one in zip(found, zip(*alone, strict=True), strict=True):
    np.testing.assert_allclose(
        np.float32(together[[0, 5, 15]]),
        np.float32(np.concatenate(one)),
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize("pack", [1, 3])
def test_gradients_of_a_head_are_those_of_its_output(pack):
  rng = np.random.default_rng(0)
  q, k, v, d_out = (jnp.float32(rng.normal(size=(12, 8))) for _ in range(4))
  _, vjp = jax.vjp(lambda *x: by_rows.attend(*x, pack), q, k, v)
  dq, dk, dv = by_rows.gradients(q, k, v, d_out, pack)
  got = np.log(2) * dq, np.log(2) * dk, dv  # q is in base-2 units
  for a, b in zip(got, vjp(d_out), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_sequences_of_one_map_do_not_attend_to_each_other():
  rng = np.random.default_rng(0)
  q, k, v = (jnp.float32(rng.normal(size=(12, 8))) for _ in range(3))
  together = by_rows.attend(q, k, v, 3)
  for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
    np.testing.assert_allclose(
        together[part], by_rows.attend(q[part], k[part], v[part]), atol=1e-6
    )


def test_heads_are_read_with_the_registers_they_lie_in():
  heads = by_rows.heads(216, 72)
  assert [h.lanes for h in heads] == [
      slice(0, 128),
      slice(0, 216),
      slice(128, 216),  # the last register is not filled
  ]
  x = jnp.ones((2, 216))
  for i, head in enumerate(heads):
    mine = np.zeros(216)
    mine[72 * i : 72 * (i + 1)] = 1
    np.testing.assert_array_equal(
        head.only(x[:, head.lanes])[0], mine[head.lanes]
    )
