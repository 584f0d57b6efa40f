"""The text tower: pooling, and what its last block leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax.errors import UserError
from siglip_jax.models import text
from siglip_jax.weights import layouts


@pytest.mark.parametrize("pool_type", ["last", "first", "gap", "max", "map"])
def test_text_pooling(pool_type):
  tower = text.TextTransformer(
      width=8,
      depth=0,
      mlp_dim=8,
      num_heads=2,
      vocab_size=5,
      pool_type=pool_type,
  )
  ids = jnp.array([[1, 4, 2], [3, 0, 0]])
  z, variables = tower.init_with_output(jax.random.key(0), ids)
  params = variables["params"]
  if pool_type == "map":
    assert z.shape == (2, 8) and "MAPHead_0" in params
    return
  # Without blocks a token is its LayerNormed embedding and position.
  x = np.asarray(params["Embed_0"]["embedding"])[ids]
  x = x + np.broadcast_to(params["pos_embedding"], x.shape)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  pooled = dict(last=x[:, -1], first=x[:, 0], gap=x.mean(1), max=x.max(1))
  np.testing.assert_allclose(z, pooled[pool_type], atol=1e-5)


@pytest.mark.parametrize("pool_type", ["last", "first"])
def test_the_last_block_makes_the_pooled_token_alone(pool_type):
  sizes = dict(width=8, depth=2, mlp_dim=8, num_heads=2, vocab_size=5)
  tower = text.TextTransformer(**sizes, pool_type=pool_type)
  ids = jnp.array([[1, 4, 2], [3, 0, 0]])
  params = tower.init(jax.random.key(0), ids)
  z, seen = tower.apply(params, ids, capture_intermediates=True)
  blocks = seen["intermediates"]["Encoder_0"]
  shapes = [blocks[f"encoderblock_{i}"]["__call__"][0][0].shape for i in (0, 1)]
  assert shapes == [(2, 3, 8), (2, 1, 8)]
  # A scan has no last block of its own, and makes all tokens.
  stacked = {"params": layouts.scanned({"txt": params["params"]})["txt"]}
  scanned = text.TextTransformer(**sizes, pool_type=pool_type, scan=True)
  np.testing.assert_allclose(scanned.apply(stacked, ids), z, atol=1e-6)


def test_tokens_see_those_after_them():
  tower = text.TextTransformer(
      width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=5, pool_type="first"
  )
  ids = jnp.array([[1, 4, 2], [1, 4, 3]])
  z, _ = jax.jit(tower.init_with_output)(jax.random.key(0), ids)
  assert np.abs(z[0] - z[1]).max() > 1e-3  # a causal mask would hide the last


def test_an_unknown_pooling_is_named():
  tower = text.TextTransformer(
      width=8, depth=0, mlp_dim=8, num_heads=2, vocab_size=5, pool_type="mean"
  )
  with pytest.raises(UserError, match="last, first, gap, .* got 'mean'"):
    jax.eval_shape(tower.init, jax.random.key(0), jnp.ones((1, 3), jnp.int32))
