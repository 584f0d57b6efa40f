"""Dense layers of heads against Flax's, values and gradients."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax.models import dense


def tokens(dtype):
  rng = np.random.default_rng(0)
  return jnp.asarray(2 + 3 * rng.normal(size=(5, 7, 24)), dtype)


def outputs_and_gradients(module, params, x):
  """Of the output's product with fixed numbers, in float32."""
  rng = np.random.default_rng(1)

  def run(params, x):
    y = module.apply({"params": params}, x)
    return jnp.sum(y.astype(jnp.float32) * weights), y

  y = jax.eval_shape(lambda: module.apply({"params": params}, x))
  weights = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
  (_, y), grads = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(
      params, x
  )
  return jax.device_get((y, grads))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_flaxs(dtype):
  x = tokens(dtype)
  ours = dense.HeadsDense((40,), dtype=dtype)
  theirs = nn.Dense(40, kernel_init=dense.xavier, dtype=dtype)
  params = ours.init(jax.random.key(0), x)["params"]
  jax.tree.map(
      np.testing.assert_array_equal,
      params,
      theirs.init(jax.random.key(0), x)["params"],
  )
  # Away from ones and zeros.
  params = jax.tree.map(
      lambda p: p + jnp.linspace(0, 0.1, p.size).reshape(p.shape), params
  )
  got = outputs_and_gradients(ours, params, x)
  wanted = outputs_and_gradients(theirs, params, x)
  tolerance = 1e-5 if dtype == jnp.float32 else 2**-6

  def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    a, b = np.float32(a), np.float32(b)
    np.testing.assert_allclose(
        a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()
    )

  jax.tree.map(same, got, wanted)


def test_bias_gradients_add_up_in_float32():
  """300 x 200 ones in bfloat16, which would stop growing at 256."""
  module = dense.HeadsDense((8,), dtype=jnp.bfloat16)
  x = jnp.ones((300, 200, 8), jnp.bfloat16)
  params = module.init(jax.random.key(0), x[:1])["params"]
  gradient = jax.grad(
      lambda p: jnp.sum(module.apply({"params": p}, x).astype(jnp.float32))
  )(params)
  np.testing.assert_array_equal(gradient["bias"], 60_000)


def test_parameters_are_those_of_dense_general():
  x = jnp.ones((2, 5, 24))
  for features, heads_in, axis in [((4, 6), (), -1), ((24,), (4, 6), (-2, -1))]:
    ours = dense.HeadsDense(features, heads_in)
    theirs = nn.DenseGeneral(
        features if len(features) > 1 else features[0],
        axis=axis,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    y = x.reshape(2, 5, *heads_in) if heads_in else x
    a, b = ours.init(jax.random.key(1), x), theirs.init(jax.random.key(1), y)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_allclose(
        ours.apply(a, x), theirs.apply(b, y).reshape(2, 5, -1), rtol=1e-6
    )
