"""Transformer layers: what is recomputed, and which tokens are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models import layers
from siglip_jax.models.two_towers import TwoTowers

TEXT = dict(width=64, depth=3, mlp_dim=128, num_heads=2, vocab_size=256)


def remat_gradient(remat, scan):
  """A gradient function and parameters for it."""
  image = dict(variant="mu/4", depth=2, pool_type="gap")
  model = TwoTowers(
      image=image, text=TEXT, out_dim=(None, 64), remat=remat, scan=scan
  )
  shapes = jax.eval_shape(
      lambda key: model.init(key, (8, 8, 3), 4)["img"], jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32) / 8, shapes
  )
  images = jnp.asarray(rng.uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)

  def loss(p):
    return model.encode_image({"img": p}, images)[:, :5].sum()

  return jax.grad(loss), params


@pytest.mark.parametrize("scan", [False, True])
def test_remat_recomputes_matmuls(scan):
  def matmuls(remat):
    grad, params = remat_gradient(remat, scan)
    return str(jax.make_jaxpr(grad)(params)).count("dot_general")

  assert matmuls("none") < matmuls("dots") < matmuls("full")


def test_remat_keeps_gradients_when_unrolled():
  grad, params = remat_gradient("none", scan=False)
  expected = tree.flatten(jax.jit(grad)(params))
  for remat in ("dots", "full"):
    grad, _ = remat_gradient(remat, scan=False)
    for name, got in tree.flatten(jax.jit(grad)(params)).items():
      np.testing.assert_allclose(
          got, expected[name], rtol=1e-4, atol=1e-6, err_msg=name
      )


def tokens(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_a_block_makes_one_token_as_it_makes_all():
  x = tokens(2, 5, 8)
  whole = layers.EncoderBlock(mlp_dim=16, num_heads=2)
  init = jax.jit(whole.init_with_output)
  (wanted, _), params = init(jax.random.key(0), x)
  for only in (0, -1):
    one = layers.EncoderBlock(mlp_dim=16, num_heads=2, only=only)
    got, _ = jax.jit(one.apply)(params, x)
    assert got.shape == (2, 1, 8)
    np.testing.assert_allclose(got[:, 0], wanted[:, only], atol=1e-5)


def test_pooling_by_attention_knows_no_order_and_takes_no_kernel():
  x = tokens(2, 5, 128)
  head = layers.MAPHead(mlp_dim=16, num_heads=2)
  z, params = jax.jit(head.init_with_output)(jax.random.key(0), x)
  fused = layers.MAPHead(mlp_dim=16, num_heads=2, attention="fused")
  assert "pallas_call" not in str(jax.make_jaxpr(fused.apply)(params, x))
  apply = jax.jit(head.apply)
  np.testing.assert_allclose(apply(params, x[:, ::-1]), z, atol=1e-5)
  assert np.abs(apply(params, x.at[:, 2].set(0)) - z).max() > 1e-3


def test_heads_must_divide_the_width():
  attention = layers.MultiHeadDotProductAttention(num_heads=3)
  with pytest.raises(UserError, match="width 8 must be .* num_heads = 3"):
    attention.init(jax.random.key(0), tokens(1, 2, 8), tokens(1, 4, 8))
