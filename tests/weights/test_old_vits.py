"""Old layouts of ViT weights become today's names."""

import jax
import numpy as np
import pytest
import small_towers
from small_towers import assert_trees_equal
from small_towers import augreg
from small_towers import read
from small_towers import shapes

from siglip_jax import tree
from siglip_jax.weights import old_vits


@pytest.fixture(scope="module")
def params():
  return small_towers.params()


def test_augregs_layout_becomes_an_image_tower(params, tmp_path):
  path = tmp_path / "augreg.npz"
  np.savez(path, **tree.flatten(augreg(params["img"])))
  found = read(path, shapes())
  arrays = tree.flatten(params["img"])
  np.testing.assert_allclose(found.arrays["cls"], arrays.pop("cls"), rtol=1e-6)
  assert_trees_equal(
      {k: v for k, v in found.arrays.items() if k != "cls"}, arrays
  )
  assert found.unknown == ["head/kernel", "pre_logits/kernel"]
  assert not found.initial


@pytest.mark.parametrize("place", ["Transformer", "posembed_input", "top"])
def test_positions_are_found_in_all_three_places(params, place):
  img = jax.tree.map(np.copy, params["img"])
  positions = img.pop("pos_embedding")
  old = {
      "Transformer": {"Transformer": {"pos_embedding": positions}},
      "posembed_input": {
          "Transformer": {"posembed_input": {"pos_embedding": positions}}
      },
      "top": {"pos_embedding": positions},
  }[place]
  assert_trees_equal(old_vits.modern(tree.merge(img, old)), params["img"])


def test_blocks_beyond_nine_keep_their_order():
  blocks = {
      f"encoderblock_{i}": {"LayerNorm_2": {"scale": np.float32([i])}}
      for i in range(12)
  }
  found = old_vits.modern({"Transformer": blocks, "embedding": {}})
  for i in range(12):
    block = found["Transformer"][f"encoderblock_{i}"]
    assert block["LayerNorm_0"]["scale"] == i


def test_an_inlined_map_head_becomes_a_module():
  inlined = {
      "probe": np.zeros(1),
      "LayerNorm_0": {"scale": np.zeros(2)},
      "MlpBlock_0": {"Dense_0": {"kernel": np.zeros(3)}},
      "MultiHeadDotProductAttention_0": {"out": {"kernel": np.zeros(4)}},
  }
  found = old_vits.modern(inlined | {"Transformer": {}, "embedding": {}})
  assert_trees_equal(found["MAPHead_0"], inlined)
