"""Blocks one by one and stacked."""

import jax
import numpy as np
import pytest

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.weights import layouts


def encoder(depth, **change):
  rng = np.random.default_rng(0)
  blocks = {
      f"encoderblock_{i}": {"Dense_0": {"kernel": rng.normal(size=(2, 3))}}
      for i in reversed(range(depth))
  }
  return blocks | {"encoder_norm": {"scale": np.ones(3)}} | change


def same(a, b):
  a, b = tree.flatten(a), tree.flatten(b)
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"img": {"T": x}}])
def test_there_and_back_of_a_model_and_a_tower(wrap):
  params = wrap(encoder(12))
  stacked = layouts.scanned(params)
  leaf = tree.flatten(stacked)
  name = next(n for n in leaf if n.endswith("encoderblock/Dense_0/kernel"))
  assert leaf[name].shape == (12, 2, 3)  # In order: 10 is after 9.
  np.testing.assert_array_equal(
      leaf[name][10],
      tree.flatten(params)[name.replace("block/", "block_10/")],
  )
  assert same(layouts.unrolled(stacked), params)
  assert same(layouts.scanned(stacked), stacked)
  assert same(layouts.unrolled(params), params)
  assert "encoderblock_0" in str(tree.flatten(params))  # Not changed.


def test_shapes_are_unrolled_as_arrays_are():
  stacked = {"encoderblock": {"k": jax.ShapeDtypeStruct((2, 5), np.float32)}}
  found = layouts.unrolled(stacked)
  assert [found[f"encoderblock_{i}"]["k"].shape for i in (0, 1)] == [(5,)] * 2


def test_incomplete_blocks_are_named():
  params = encoder(3)
  del params["encoderblock_1"]
  with pytest.raises(UserError, match=r"without gaps; got \[0, 2\]"):
    layouts.scanned(params)
  other = {"Dense_0": {"kernel": np.ones((4, 4))}}
  for wrong in (other, {"Dense_1": {}}):
    with pytest.raises(UserError, match="must be alike"):
      layouts.scanned(encoder(3, encoderblock_1=wrong))
