"""Attention by einsums, in either order of axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax.models.attention import xla


@pytest.mark.parametrize("queries", [1, 5])
def test_attention_is_the_same_in_either_order_of_axes(queries):
  def attention(attend, *args):
    return jax.vjp(lambda *x: attend(*x, 4), *args)

  rng = np.random.default_rng(0)
  q, k, v = (
      jnp.asarray(rng.standard_normal((2, n, 24), np.float32) * 5)
      for n in (queries, 5, 5)
  )
  z, vjp = attention(xla.tokens_first, q, k, v)
  again, vjp_again = attention(xla.heads_first, q, k, v)
  np.testing.assert_allclose(again, z, atol=1e-5)
  for a, b in zip(vjp_again(jnp.cos(z)), vjp(jnp.cos(z)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("attend", [xla.tokens_first, xla.heads_first])
def test_a_query_takes_the_values_of_the_keys_it_resembles(attend):
  """Two heads of two numbers; each finds its own key."""
  keys = 100 * jnp.float32([[[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]])
  values = jnp.float32([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]])
  query = jnp.float32([[[1, -1, 1, -1], [0, 0, 0, 0]]])
  run = jax.jit(attend, static_argnums=3)
  sure, even = run(query, keys, values, 2)[0]
  np.testing.assert_allclose(sure, [1, 2, 7, 8], atol=1e-5)
  np.testing.assert_allclose(even, values[0].mean(0), rtol=1e-6)


@pytest.mark.parametrize("attend", [xla.tokens_first, xla.heads_first])
def test_logits_beyond_float32s_exponents_stay_finite(attend):
  @jax.jit
  def run(*args):
    z, vjp = jax.vjp(lambda *args: attend(*args, 1), *args)
    return z, vjp(jnp.ones_like(z))

  x = 100 * jnp.ones((1, 2, 4))
  z, gradients = run(x, x, x)
  np.testing.assert_allclose(z, x, rtol=1e-6)  # exp(20,000) is not finite
  for gradient in gradients:
    assert np.isfinite(gradient).all()
