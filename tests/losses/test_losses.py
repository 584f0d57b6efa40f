"""Losses by name: what `make` passes on, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pairs
import pytest

from siglip_jax import losses
from siglip_jax.errors import UserError


def test_make_refuses_what_a_loss_does_not_have(mesh):
  def wrong(match, **section):
    with pytest.raises(UserError, match=match):
      losses.make(mesh, pairs.AXES, **section)

  wrong("must be one of", name="ring")
  wrong("did you mean 'block'", name="ring_sigmoid", blok=3)
  wrong("float32 or bfloat16; got 'fp8'", name="ring_sigmoid", dtype="fp8")
  wrong("keep is missing", name="masked_sigmoid", ratio=0.5)
  wrong("got 'worst'", name="masked_sigmoid", ratio=0.5, keep="worst")
  wrong(r"in \[0, 1\]; got 2", name="masked_sigmoid", ratio=2, keep="random")
  loss = losses.make(mesh, pairs.AXES, name="ring_sigmoid")
  zimg, ztxt, t_prime, _ = pairs.random(mesh, 8)
  with pytest.raises(UserError, match=r"learns \['b'\]"):
    loss(zimg, ztxt, {"t": t_prime[None]}, jax.random.key(0))


def test_make_passes_parameters_in_order_and_options(mesh):
  zimg, ztxt, t_prime, b = pairs.random(mesh, 8)
  params = {"b": b[None], "t": t_prime[None], "img": {}}

  def value(**section):
    loss = losses.make(mesh, pairs.AXES, **section)
    return loss(zimg, ztxt, params, jax.random.key(0))

  np.testing.assert_allclose(
      value(name="sigmoid"), losses.sigmoid_loss(zimg, ztxt, t_prime, b)
  )
  np.testing.assert_allclose(
      value(name="softmax"), losses.softmax_loss(zimg, ztxt, t_prime)
  )
  np.testing.assert_allclose(
      value(name="bce_mean", temperature=0.5),
      losses.bce_mean_loss(zimg, ztxt, temperature=0.5),
  )


def test_make_rounds_embeddings_to_the_dtype_it_is_given(mesh):
  zimg, ztxt, t_prime, b = pairs.random(mesh, 8)
  params = {"t": t_prime[None], "b": b[None]}
  loss = losses.make(mesh, pairs.AXES, name="sigmoid", dtype="bfloat16")
  rounded = [z.astype(jnp.bfloat16).astype(jnp.float32) for z in (zimg, ztxt)]
  value = loss(zimg, ztxt, params, jax.random.key(0))
  np.testing.assert_allclose(
      value, losses.sigmoid_loss(*rounded, t_prime, b), rtol=1e-6
  )
  assert abs(value - losses.sigmoid_loss(zimg, ztxt, t_prime, b)) > 1e-4
