"""Both towers against big_vision's numbers, and their parameters."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models import two_towers
from siglip_jax.models import vit
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
  weights = np.load("tests/fixtures/big_vision_tiny.npz")
  expected = np.load("tests/fixtures/big_vision_tiny_expected.npz")
  flat = {k.removeprefix("params/"): jnp.asarray(v) for k, v in weights.items()}
  return tree.unflatten(flat), expected


def loss_fn(model):
  def loss(params, image, text):
    zimg = model.encode_image(params, image)
    ztxt = model.encode_text(params, text)
    t, b = params["t"][0], params["b"][0]
    return losses.sigmoid_loss(zimg, ztxt, t, b), (zimg, ztxt)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def unrolled(golden):
  """Value, embeddings and gradients of the golden batch."""
  params, expected = golden
  return loss_fn(TwoTowers(**TINY))(params, expected["image"], expected["text"])


def test_embeddings_logits_loss_and_gradients_are_big_visions(golden, unrolled):
  params, expected = golden
  (value, (zimg, ztxt)), grads = unrolled
  np.testing.assert_allclose(zimg, expected["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, expected["ztxt"], atol=1e-5)
  logits = zimg @ ztxt.T * jnp.exp(params["t"][0]) + params["b"][0]
  np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
  assert len(tree.flatten(grads)) == sum("grad_norm" in k for k in expected)
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


def test_scan_and_remat_change_nothing(golden, unrolled):
  params, expected = golden
  args = expected["image"], expected["text"]
  (value, _), grads = unrolled
  stacked = stack_blocks(params)
  scanned = TwoTowers(**TINY, scan=True, remat="full")
  shapes = jax.eval_shape(
      lambda key: scanned.init(key, (32, 32, 3), 16), jax.random.key(0)
  )
  shapes, wanted = (jax.tree.map(jnp.shape, t) for t in (shapes, stacked))
  assert shapes == wanted
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


def test_bfloat16_keeps_softmax_norms_and_embeddings_in_float32(golden):
  params, expected = golden
  model = TwoTowers(**TINY, dtype="bfloat16")
  args = params, expected["image"]
  code = str(jax.make_jaxpr(model.encode_image)(*args))
  kinds = re.findall(r":(\w+)\[[^]]*\] = (exp|rsqrt|dot_general)\b", code)
  assert {k for k, op in kinds if op != "dot_general"} == {"f32"}
  assert ("bf16", "dot_general") in kinds
  z = jax.jit(model.encode_image)(*args)
  assert z.dtype == jnp.float32
  np.testing.assert_allclose(z, expected["zimg"], atol=2e-2)
  np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), 1, atol=1e-6)


def test_b16_has_as_many_parameters_as_its_layers_add_up_to():
  model = TwoTowers(
      image=dict(variant="B/16"),
      text=dict(variant="B", vocab_size=32_000),
      out_dim=(None, 768),
  )
  params = jax.eval_shape(
      lambda key: model.init(key, (224, 224, 3), 64), jax.random.key(0)
  )

  def count(t):
    return sum(x.size for x in jax.tree.leaves(t))

  d, mlp = 768, 3072
  attention = 4 * (d * d + d)
  mlp_block = 2 * d * mlp + mlp + d
  block = attention + mlp_block + 2 * 2 * d
  patches = 16 * 16 * 3 * d + d + 196 * d
  head = d + attention + mlp_block + 2 * d
  assert count(params["img"]) == patches + 12 * block + 2 * d + head
  assert count(params["img"]) == 92_884_224
  tokens = 32_000 * d + 64 * d
  assert count(params["txt"]) == tokens + 12 * block + 2 * d + d * d + d


@pytest.mark.parametrize("variant", vit.VARIANTS)
def test_every_variant_builds(variant):
  width, depth, mlp_dim, _ = vit.VARIANTS[variant]
  model = TwoTowers(
      image=dict(variant=f"{variant}/16"),
      text=dict(variant=variant, vocab_size=99),
      out_dim=(None, width),
      scan=True,
  )
  params = jax.eval_shape(
      lambda key: model.init(key, (32, 32, 3), 8), jax.random.key(0)
  )
  for tower, encoder in (("img", "Transformer"), ("txt", "Encoder_0")):
    mlp = params[tower][encoder]["encoderblock"]["MlpBlock_0"]
    assert mlp["Dense_0"]["kernel"].shape == (depth, width, mlp_dim)


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
  with pytest.raises(UserError, match="multiple of num_heads"):
    init(variant="mu/16", num_heads=3)
  for field in ("pool_type", "posemb", "remat", "attention"):
    with pytest.raises(UserError, match=f"{field} .*'typo'"):
      init(variant="mu/16", **{field: "typo"})


def test_a_model_has_the_parameters_that_it_uses():
  model = TwoTowers(**TINY, embedded=True, bias_init=None, temperature_init=7.0)
  text = dict(TINY["text"], depth=0)
  params = dataclasses.replace(model, text=text).init(
      jax.random.key(0), (32, 32, 3), 8
  )
  assert params.keys() == {"txt", "t"}  # embeddings for images, no bias
  np.testing.assert_allclose(params["t"], np.log([7.0]), rtol=1e-6)
  both = TwoTowers(**TINY).shapes((32, 32, 3), 8)
  assert both.keys() == {"img", "txt", "t", "b"}


@pytest.mark.parametrize(
    "out_dim, wanted", [(24, 24), ((None, 24), 64), ([48, 24], 48)]
)
def test_embeddings_are_as_wide_as_the_projection_or_the_tower(out_dim, wanted):
  model = TwoTowers(**TINY | dict(out_dim=out_dim))

  def encode(key):
    params = model.init_image(key, (16, 16, 3))
    return model.encode_image(params, jnp.zeros((3, 16, 16, 3)))

  assert jax.eval_shape(encode, jax.random.key(0)).shape == (3, wanted)
  assert model.image_dim == wanted


def test_bytes_fill_the_range_of_values():
  images = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
  got = two_towers.scale(images, (-1.0, 3.0))
  np.testing.assert_allclose(got.ravel(), [-1.0, -0.2, 3.0], rtol=1e-6)
