"""Tensors of a SiglipModel: their names, and what multiplying by them does."""

import einops
import numpy as np
import pytest

from siglip_jax.weights import hf_names

ATTENTION = "txt/Encoder_0/encoderblock_0/MultiHeadDotProductAttention_0"
HEAD = "img/MAPHead_0/MultiHeadDotProductAttention_0"
RNG = np.random.default_rng(0)


def theirs(flat):
  """The tensors of some parameters."""
  names = hf_names.pairs(1, 1)
  return hf_names.to_theirs(flat, {name: names[name] for name in flat})


@pytest.mark.parametrize("depths", [(1, 1), (2, 5), (12, 12)])
def test_every_tensor_has_a_name_and_blocks_have_sixteen(depths):
  names = hf_names.pairs(*depths)
  # Query, key and value of the pooling head share a weight and a bias.
  assert len(set(names.values())) == len(names) - 4 == 24 + 16 * sum(depths)
  last = f"text_model.encoder.layers.{depths[1] - 1}.self_attn.q_proj.weight"
  assert last in names.values()


def test_heads_lie_side_by_side_in_the_same_products():
  query, out = RNG.normal(size=(6, 2, 3)), RNG.normal(size=(2, 3, 6))
  bias = RNG.normal(size=(2, 3))
  found = theirs(
      {
          f"{ATTENTION}/query/kernel": query,
          f"{ATTENTION}/query/bias": bias,
          f"{ATTENTION}/out/kernel": out,
      }
  )
  block = "text_model.encoder.layers.0.self_attn"
  x = RNG.normal(size=6)
  np.testing.assert_allclose(
      found[f"{block}.q_proj.weight"] @ x + found[f"{block}.q_proj.bias"],
      (np.einsum("d,dnh->nh", x, query) + bias).reshape(-1),
  )
  np.testing.assert_allclose(
      found[f"{block}.out_proj.weight"] @ x,
      np.einsum("nh,nhd->d", x.reshape(2, 3), out),
  )


def test_the_pooling_heads_projections_are_one_tensor_in_order():
  parts = ("query", "key", "value")
  flat = {f"{HEAD}/{p}/kernel": RNG.normal(size=(6, 2, 3)) for p in parts}
  (tensor,) = theirs(flat).values()
  assert tensor.shape == (18, 6)
  for i, kernel in enumerate(flat.values()):
    part = tensor[6 * i : 6 * (i + 1)]
    np.testing.assert_array_equal(part, kernel.reshape(6, 6).T)


def test_there_and_back_is_the_same():
  shapes = {
      "t": (1,),
      "img/embedding/kernel": (4, 4, 3, 6),
      "img/pos_embedding": (1, 9, 6),
      "img/MAPHead_0/probe": (1, 1, 6),
      "txt/Embed_0/embedding": (11, 6),
      "txt/head/kernel": (6, 5),
      f"{ATTENTION}/out/bias": (6,),
      **{f"{HEAD}/{p}/bias": (2, 3) for p in ("query", "key", "value")},
  }
  flat = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
  names = {name: hf_names.pairs(1, 1)[name] for name in flat}
  back = hf_names.to_ours(theirs(flat), names, heads={"img": 2, "txt": 3})
  assert back.keys() == flat.keys()
  for name, x in flat.items():
    np.testing.assert_array_equal(back[name], x, err_msg=name)
  with pytest.raises(einops.EinopsError, match="length 6 in chunks of 4"):
    hf_names.to_ours(theirs(flat), names, heads={"img": 4, "txt": 3})


def test_a_dense_layer_over_patches_is_a_convolution():
  name = "vision_model.embeddings.patch_embedding.weight"
  dense, patch = RNG.normal(size=(5, 48)), RNG.normal(size=(4, 4, 3))
  tensors = {name: dense, "logit_bias": np.ones(1)}
  found = hf_names.with_convolution(tensors, 4)
  np.testing.assert_allclose(
      np.einsum("dchw,hwc->d", found[name], patch), dense @ patch.reshape(-1)
  )
  assert found["logit_bias"] is tensors["logit_bias"]
  assert tensors[name] is dense
  with pytest.raises(einops.EinopsError):
    hf_names.with_convolution(tensors, 5)
