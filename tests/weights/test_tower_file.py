"""The image tower beside embeddings: the same one, or refused."""

import ml_dtypes
import numpy as np
import pytest

from siglip_jax import tree
from siglip_jax.data.embeddings import TOWER
from siglip_jax.errors import UserError
from siglip_jax.weights import layouts
from siglip_jax.weights import tower_file


@pytest.fixture
def params():
  rng = np.random.default_rng(0)
  # Exact in bfloat16, too.
  x = lambda *shape: rng.integers(-99, 99, shape).astype(np.float32)
  blocks = {f"encoderblock_{i}": {"Dense_0": {"bias": x(4)}} for i in (0, 1)}
  return {"img": {"embedding": {"kernel": x(2, 3)}, "Transformer": blocks}}


def test_the_digest_knows_neither_layout_nor_type(params):
  digest = tower_file.digest(params)
  assert digest == tower_file.digest(layouts.scanned(params))
  half = tree.unflatten(
      {k: x.astype(ml_dtypes.bfloat16) for k, x in tree.flatten(params).items()}
  )
  assert digest == tower_file.digest(half)


def test_every_value_name_and_shape_is_in_the_digest(params):
  digests = {tower_file.digest(params)}
  embedding = params["img"]["embedding"]
  kernel = embedding["kernel"]
  for changed in (
      {"kernel": kernel + np.eye(2, 3, dtype=np.float32)},
      {"kernel": kernel.reshape(3, 2)},
      {"weight": kernel},
  ):
    params["img"]["embedding"] = changed
    digests.add(tower_file.digest(params))
  assert len(digests) == 4


@pytest.mark.parametrize("scan", [False, True])
def test_what_is_written_is_kept_in_the_models_layout(params, tmp_path, scan):
  tower_file.write(tmp_path / TOWER, layouts.scanned(params))
  found = tower_file.kept(tmp_path, tower_file.digest(params), scan)
  wanted = tree.flatten(layouts.scanned(params) if scan else params)
  found = tree.flatten(found)
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], x)


def test_another_tower_and_a_missing_one_are_named(params, tmp_path):
  digest = tower_file.digest(params)
  with pytest.raises(UserError, match="There is no .*tower.npz"):
    tower_file.kept(tmp_path, digest, False)
  params["img"]["embedding"]["kernel"][0, 0] += 1
  tower_file.write(tmp_path / TOWER, params)
  match = f"tower.npz is not the image tower .* sha256 {digest[:12]}"
  with pytest.raises(UserError, match=match):
    tower_file.kept(tmp_path, digest, False)
