"""Towers against big_vision's numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models import text
from siglip_jax.models import vit
from siglip_jax.models.attention import xla
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import layouts

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
  if posemb == "learn":  # One a patch: none for the class token.
    assert params["img"]["pos_embedding"].shape == (1, 8, 64)
  else:
    assert "pos_embedding" not in params["img"]
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


def remat_gradient(remat, scan):
  """A gradient function and parameters for it."""
  image = dict(variant="mu/4", depth=2, pool_type="gap")
  model = TwoTowers(**TINY | dict(image=image), remat=remat, scan=scan)
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
