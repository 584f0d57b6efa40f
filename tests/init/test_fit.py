"""Weights made to fit a part of a model, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import assert_trees_equal
from small_towers import model
from small_towers import read
from small_towers import shapes

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.init import fit
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts


@pytest.mark.parametrize("there, here", [(False, True), (True, False)])
def test_blocks_are_stacked_and_taken_apart(params, npz, there, here, tmp_path):
  if there:
    npz = tmp_path / "stacked.npz"
    big_vision.write(npz, layouts.scanned(params))
  found = read(npz, shapes(scan=here))
  assert any("encoderblock/" in n for n in found.arrays) == here
  expected = layouts.scanned(params) if here else params
  assert_trees_equal(tree.unflatten(found.arrays), expected["img"])


def test_positions_are_resampled_bilinearly_with_their_corners(params, npz):
  found = read(npz, shapes(side=32))
  assert found.resampled == {"pos_embedding": "2x2 to 4x4"}
  old = params["img"]["pos_embedding"].reshape(2, 2, 64)
  new = found.arrays["pos_embedding"].reshape(4, 4, 64)
  for old_i, new_i in ((0, 0), (1, 3)):
    for old_j, new_j in ((0, 0), (1, 3)):
      np.testing.assert_allclose(new[new_i, new_j], old[old_i, old_j], 1e-6)
  np.testing.assert_allclose(
      new[1, 0], old[0, 0] * 2 / 3 + old[1, 0] / 3, rtol=1e-4, atol=1e-6
  )


def test_what_cannot_be_resampled_is_refused():
  with pytest.raises(UserError, match=r"\(1, 6, 4\) cannot be .* \(1, 9, 4\)"):
    fit.resample(np.zeros((1, 6, 4)), (1, 9, 4), where="here")
  with pytest.raises(UserError, match=r"\(1, 4, 8\) cannot be .* \(1, 9, 4\)"):
    fit.resample(np.zeros((1, 4, 8)), (1, 9, 4), where="here")


def test_arrays_take_the_models_type(params):
  wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes()["txt"]
  )
  found = fit.fit(params["txt"], wanted, source="x", part="txt")
  for name, x in tree.flatten(params["txt"]).items():
    assert found.arrays[name].dtype == jnp.bfloat16, name
    np.testing.assert_array_equal(found.arrays[name], x.astype(jnp.bfloat16))
  assert not (found.initial or found.unknown or found.resampled)


def test_dont_load_keeps_initial_values(npz):
  found = read(npz, shapes(), dont_load=["cls", ".*/MlpBlock_0/.*"])
  assert found.skipped == found.initial
  assert "cls" in found.initial and len(found.initial) == 1 + 2 * 4
  assert not set(found.initial) & found.arrays.keys()


def test_a_head_the_weights_lack_must_be_named(npz):
  wanted = shapes(out_dim=(64, 64))
  with pytest.raises(UserError, match="must be in the .*head/bias, head/kern"):
    read(npz, wanted)
  found = read(npz, wanted, dont_load=["head/.*"])
  assert found.initial == ["head/bias", "head/kernel"]
  assert not found.skipped


@pytest.mark.parametrize(
    "options, dont_load, match",
    [
        ({}, ["hed/.*"], "'hed/\\.\\*' matches none. Names are like Trans"),
        ({}, ["("], "'\\(' is not a regular expression"),
        ({}, [".*"], "leaves nothing to load"),
        (dict(depth=3), [], "the weights have 2 blocks, the model 3"),
        (dict(depth=3, scan=True), [], "the weights have 2 blocks, .* 3"),
        (dict(mlp_dim=96), [], r"shape \(128,\) in the .* and \(96,\) in the"),
    ],
)
def test_what_does_not_fit_is_one_line(npz, options, dont_load, match):
  scan = options.pop("scan", False)
  image = model().image | options
  with pytest.raises(UserError, match=match):
    read(npz, shapes(image=image, scan=scan), dont_load=dont_load)
