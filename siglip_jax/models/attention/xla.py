"""Attention as plain XLA ops, in the axis order each platform runs fastest."""

import einops
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float


def tokens_first(
    query: Float[Array, "B Q D"],
    key: Float[Array, "B K D"],
    value: Float[Array, "B K D"],
    num_heads: int,
) -> Float[Array, "B Q D"]:
  """Returns attention with tokens before heads, for TPUs and GPUs.

  The softmax is float32. XLA:TPU chooses the layouts itself; with `heads_first`
  a step of B/16 on v4 is 16 % slower.
  """
  query, key, value = (_heads(x, num_heads) for x in (query, key, value))
  logits = jnp.einsum(
      "BQNH,BKNH->BNQK",
      query * query.shape[-1] ** -0.5,
      key,
      preferred_element_type=jnp.float32,
  )
  weights = nn.softmax(logits).astype(value.dtype)
  out = jnp.einsum("BNQK,BKNH->BQNH", weights, value)
  return einops.rearrange(out, "b q n h -> b q (n h)")


def heads_first(
    query: Float[Array, "B Q D"],
    key: Float[Array, "B K D"],
    value: Float[Array, "B K D"],
    num_heads: int,
) -> Float[Array, "B Q D"]:
  """Returns attention with heads before tokens, for CPUs.

  In this order XLA:CPU calls a matrix library. In the order of `tokens_first`
  it multiplies in loops: 53 ms instead of 9 ms for 8 images of 256 tokens and
  12 heads. The softmax divides the output, which has fewer elements than the
  attention map.
  """
  query, key, value = (
      einops.rearrange(_heads(x, num_heads), "b l n h -> b n l h")
      for x in (query, key, value)
  )
  logits = jnp.einsum(
      "BNQH,BNKH->BNQK",
      query * query.shape[-1] ** -0.5,
      key,
      preferred_element_type=jnp.float32,
  )
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  out = jnp.einsum(
      "BNQK,BNKH->BNQH",
      weights.astype(value.dtype),
      value,
      preferred_element_type=jnp.float32,
  )
  out = (out / jnp.sum(weights, axis=-1, keepdims=True)).astype(value.dtype)
  return einops.rearrange(out, "b n q h -> b q (n h)")


def _heads(x: Float[Array, "B L D"], num_heads: int) -> Float[Array, "B L N H"]:
  return einops.rearrange(x, "b l (n h) -> b l n h", n=num_heads)
