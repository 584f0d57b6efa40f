"""The image tower: its heads, positions and patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax.errors import UserError
from siglip_jax.models import vit
from siglip_jax.models.two_towers import TwoTowers

IMAGE = dict(width=64, depth=2, mlp_dim=160, num_heads=4, patch=8)
TEXT = dict(width=64, depth=3, mlp_dim=128, num_heads=2, vocab_size=256)


@pytest.mark.parametrize("pool_type", ["map", "gap", "tok"])
@pytest.mark.parametrize("posemb", ["learn", "sincos2d"])
def test_heads_and_positions_have_their_parameters(pool_type, posemb):
  image = IMAGE | dict(pool_type=pool_type, posemb=posemb)
  model = TwoTowers(image=image, text=TEXT, out_dim=(24, 24))

  def run(key):
    params = model.init(key, (32, 16, 3), 8)
    return params, model.encode_image(params, jnp.ones((2, 32, 16, 3)))

  params, z = jax.eval_shape(run, jax.random.key(0))
  assert z.shape == (2, 24) and z.dtype == jnp.float32
  assert ("MAPHead_0" in params["img"]) == (pool_type == "map")
  assert ("cls" in params["img"]) == (pool_type == "tok")
  if posemb == "learn":  # One a patch: none for the class token.
    assert params["img"]["pos_embedding"].shape == (1, 8, 64)
  else:
    assert "pos_embedding" not in params["img"]
  assert params["img"]["head"]["kernel"].shape == (64, 24)


def test_sincos2d_is_waves_of_column_then_row():
  table = vit.sincos2d(2, 3, 8)
  assert table.shape == (1, 6, 8)
  row, col = 1, 2
  angles = [
      (f, p / 10_000**k)
      for p in (col, row)
      for f in (np.sin, np.cos)
      for k in (0, 1)
  ]
  np.testing.assert_allclose(
      table[0, row * 3 + col], [f(a) for f, a in angles], atol=1e-6
  )


def test_pixels_beyond_the_last_whole_patch_are_ignored_if_told_so():
  sizes = dict(width=8, depth=0, mlp_dim=8, num_heads=2, patch=4)
  tower = vit.VIT(**sizes, pool_type="gap", ragged=True)
  images = jax.random.uniform(jax.random.key(0), (1, 10, 11, 3))
  params = jax.jit(tower.init)(jax.random.key(1), images)
  assert params["params"]["pos_embedding"].shape == (1, 4, 8)
  apply = jax.jit(tower.apply)
  z = apply(params, images)
  beyond = images.at[:, 8:].set(0.0).at[:, :, 8:].set(0.0)
  np.testing.assert_array_equal(apply(params, beyond), z)
  within = images.at[:, 7, 7].add(1.0)
  assert np.abs(apply(params, within) - z).max() > 1e-3
  with pytest.raises(UserError, match="10 x 11 .* patches of 4"):
    vit.VIT(**sizes).apply(params, images)
  with pytest.raises(UserError, match="3 x 11"):  # not one whole patch
    tower.apply(params, images[:, :3])


def test_waves_need_a_width_of_fours():
  with pytest.raises(UserError, match="divisible by 4; got 10"):
    vit.sincos2d(2, 2, 10)
