"""Attention by einsums, which the fused kernels are compared with."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def attention(qkv, *, num_heads):
  """As in `layers`; queries come scaled, and in base 2."""
  b, length, width = qkv.shape
  q, k, v = (
      x.reshape(b, length, num_heads, width // 3 // num_heads)
      for x in jnp.split(qkv, 3, axis=-1)
  )
  logits = np.log(2) * jnp.einsum(
      "BQNH,BKNH->BNQK", q, k, preferred_element_type=jnp.float32
  )
  weights = nn.softmax(logits).astype(q.dtype)
  return jnp.einsum("BNQK,BKNH->BQNH", weights, v).reshape(b, length, -1)


def values_and_gradients(fn, qkv, d_out):
  """The output, and the gradient of qkv if that of the output is d_out."""

  @jax.jit
  def run(qkv):
    out, vjp = jax.vjp(fn, qkv)
    return out, *vjp(d_out)

  return jax.device_get(run(qkv))


def inputs(batch, length, heads, head_dim, dtype):
  """Random queries, keys and values, and a gradient of the output."""
  width = heads * head_dim
  rng = np.random.default_rng(0)
  qkv = 1.5 * rng.normal(size=(batch, length, 3 * width))
  qkv[..., :width] /= np.log(2) * head_dim**0.5
  d_out = rng.normal(size=(batch, length, width))
  return jnp.asarray(qkv, dtype), jnp.asarray(d_out, dtype)


def check(fused, batch, length, heads, head_dim, dtype):
  """Values and gradients."""
  args = inputs(batch, length, heads, head_dim, dtype)
  reference = functools.partial(attention, num_heads=heads)
  found = values_and_gradients(fused, *args)
  exact = values_and_gradients(
      reference, *(x.astype(jnp.float32) for x in args)
  )
  rounded = values_and_gradients(reference, *args)
  for a, b, r in zip(found, exact, rounded, strict=True):
    assert a.dtype == dtype
    if dtype == "float32":
      np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)
    else:  # As near to the exact result as the einsums in bfloat16.
      error, allowed = (np.abs(np.float32(x) - b) for x in (a, r))
      assert error.max() < 2 * allowed.max()
      assert error.mean() < 1.2 * allowed.mean()
