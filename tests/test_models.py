"""Towers against big_vision's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers

TINY = dict(
    image=dict(
        width=64, depth=2, mlp_dim=160, num_heads=4, patch=8, pool_type="map"
    ),
    text=dict(width=64, depth=3, mlp_dim=128, num_heads=2, vocab_size=256),
    out_dim=(None, 64),
)


@pytest.fixture(scope="module")
def golden():
  weights = np.load("tests/data/big_vision_tiny.npz")
  flat = {k.removeprefix("params/"): jnp.asarray(v) for k, v in weights.items()}
  return tree.unflatten(flat), np.load(
      "tests/data/big_vision_tiny_expected.npz"
  )


def loss_fn(model):
  def loss(params, image, text):
    zimg = model.encode_image(params, image)
    ztxt = model.encode_text(params, text)
    t, b = params["t"][0], params["b"][0]
    return losses.sigmoid_loss(zimg, ztxt, t, b), (zimg, ztxt)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_embeddings_logits_loss_and_gradients_are_big_visions(golden):
  params, expected = golden
  (value, (zimg, ztxt)), grads = loss_fn(TwoTowers(**TINY))(
      params, expected["image"], expected["text"]
  )
  np.testing.assert_allclose(zimg, expected["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, expected["ztxt"], atol=1e-5)
  logits = zimg @ ztxt.T * jnp.exp(params["t"][0]) + params["b"][0]
  np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
  for name, grad in tree.flatten(grads).items():
    # The softmax does not see a key's bias: that gradient is rounding alone.
    noise = 1e-7 if name.endswith("key/bias") else 0
    np.testing.assert_allclose(
        jnp.linalg.norm(grad),
        expected[f"grad_norm/{name}"],
        rtol=1e-4,
        atol=noise,
        err_msg=name,
    )


def test_scan_and_remat_change_nothing(golden):
  params, expected = golden
  args = expected["image"], expected["text"]
  (value, _), grads = loss_fn(TwoTowers(**TINY))(params, *args)
  stacked = stack_blocks(params)
  scanned = TwoTowers(**TINY, scan=True, remat="full")
  shapes = jax.eval_shape(
      lambda key: scanned.init(key, (32, 32, 3), 16), jax.random.key(0)
  )
  shape_of = lambda t: {k: v.shape for k, v in tree.flatten(t).items()}
  assert shape_of(shapes) == shape_of(stacked)
  (other, _), other_grads = loss_fn(scanned)(stacked, *args)
  np.testing.assert_allclose(other, value, rtol=1e-6)
  expected_grads = tree.flatten(stack_blocks(grads))
  for name, grad in tree.flatten(other_grads).items():
    np.testing.assert_allclose(
        grad, expected_grads[name], rtol=1e-4, atol=1e-5, err_msg=name
    )


def stack_blocks(params):
  """encoderblock_0, _1, ... of both towers stacked under encoderblock."""
  params = jax.tree.map(lambda x: x, params)
  for tower, encoder in (("img", "Transformer"), ("txt", "Encoder_0")):
    node = params[tower][encoder]
    names = sorted(n for n in node if n.startswith("encoderblock_"))
    blocks = [node.pop(n) for n in names]
    node["encoderblock"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
  return params


@pytest.mark.parametrize("pool_type", ["map", "gap", "tok"])
@pytest.mark.parametrize("posemb", ["learn", "sincos2d"])
def test_heads_and_positions_have_their_parameters(pool_type, posemb):
  image = TINY["image"] | dict(pool_type=pool_type, posemb=posemb)
  model = TwoTowers(**TINY | dict(image=image, out_dim=(24, 24)))

  def run(key):
    params = model.init(key, (32, 16, 3), 8)
    return params, model.encode_image(params, jnp.ones((2, 32, 16, 3)))

  params, z = jax.eval_shape(run, jax.random.key(0))
  assert z.shape == (2, 24) and z.dtype == jnp.float32
  assert ("MAPHead_0" in params["img"]) == (pool_type == "map")
  assert ("cls" in params["img"]) == (pool_type == "tok")
  assert ("pos_embedding" in params["img"]) == (posemb == "learn")
  assert params["img"]["head"]["kernel"].shape == (64, 24)


def test_b16_has_as_many_parameters_as_its_layers_add_up_to():
  model = TwoTowers(
      image=dict(variant="B/16"),
      text=dict(variant="B", vocab_size=32_000),
      out_dim=(None, 768),
  )
  params = jax.eval_shape(
      lambda key: model.init(key, (224, 224, 3), 64), jax.random.key(0)
  )
  count = lambda t: sum(x.size for x in jax.tree.leaves(t))
  d, mlp = 768, 3072
  attention = 4 * (d * d + d)
  mlp_block = 2 * d * mlp + mlp + d
  block = attention + mlp_block + 2 * 2 * d
  patches = 16 * 16 * 3 * d + d + 196 * d
  head = d + attention + mlp_block + 2 * d
  assert count(params["img"]) == patches + 12 * block + 2 * d + head
  tokens = 32_000 * d + 64 * d
  assert count(params["txt"]) == tokens + 12 * block + 2 * d + d * d + d


def test_wrong_sizes_are_named():
  def init(shape=(32, 32, 3), **image):
    model = TwoTowers(**TINY | dict(image=image))
    jax.eval_shape(lambda k: model.init(k, shape, 8), jax.random.key(0))

  with pytest.raises(UserError, match="Unknown model variant 'Q'"):
    init(variant="Q/16")
  with pytest.raises(UserError, match="30 x 30"):
    init((30, 30, 3), variant="mu/16")
  with pytest.raises(UserError, match="patch size"):
    init(variant="B")
  with pytest.raises(TypeError, match="heads"):
    init(variant="mu/16", heads=3)
