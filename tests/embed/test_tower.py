"""A trained image tower, and whether embeddings are what it makes."""

import fakes
import numpy as np
import pytest
import small_embeddings

from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.embed import tower
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers


@pytest.fixture
def config(place):
  return fakes.tiny(place / "images", place / "tokenizer.model")


def load(config, workdir=None):
  return tower.load(config, TwoTowers(**config.model.to_dict()), workdir)


def test_a_tower_comes_from_a_run_or_from_config_init(config, trained):
  wanted = tree.flatten({"img": weights_lib.read(trained).params["img"]})
  by_flag = load(config, str(trained))
  config.init = {"img": {"path": str(trained)}}
  for params, origin in (by_flag, load(config)):
    assert origin == str(trained)
    params = tree.flatten(params)
    assert params.keys() == wanted.keys()
    for name, x in wanted.items():
      np.testing.assert_array_equal(params[name], x)


def test_a_tower_that_is_untrained_or_in_part_is_refused(config, trained):
  with pytest.raises(UserError, match="need a trained image tower: give --mod"):
    load(config)
  config.init = {"img": {"path": str(trained), "dont_load": ["embedding/.*"]}}
  match = f"{trained} lacks 2 arrays of the image tower, such as 'embedding/bi"
  with pytest.raises(UserError, match=match):
    load(config)


def test_preprocessing_may_be_spelled_in_another_way():
  same = lambda a, b: tower.same_tower("image", a, b)
  assert same("decode|resize(8)", "decode()|resize(size=8, method='bilinear')")
  assert not same("decode|resize(8)", "decode|resize(9)")
  assert not tower.same_tower("image_size", 8, 9)


def test_embeddings_of_the_configs_tower_pass(config, tmp_path):
  found = small_embeddings.write(
      tmp_path / "embedded",
      config,
      image="decode()|resize(size=16)|value_range(low=-1, high=1)",
  )
  tower.check_embeddings(config, found)
  tower.check_evaluation(config, found, "0" * 64)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"image_size": 32}, "embedded holds .* image_size = 32, .* has 16"),
        ({"tower_sizes": {"width": 64}}, "tower_sizes = .'width': 64.,"),
        ({"image": "decode|resize(16)"}, "with image = 'decode.resize.16.', a"),
    ],
)
def test_embeddings_of_another_tower_are_refused(
    config, tmp_path, changes, match
):
  found = small_embeddings.write(tmp_path / "embedded", config, **changes)
  with pytest.raises(UserError, match=match):
    tower.check_embeddings(config, found)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"tower_digest": "1" * 64}, "sha256 111111111111... and 00000000000"),
        ({"crops": 2}, "was made with --crops=2 and 0 unreadable"),
        ({"skipped": 1}, "was made with --crops=0 and 1 unreadable"),
        ({"image_size": 32}, "made with image_size = 32"),
    ],
)
def test_an_evaluation_needs_every_image_once_by_the_same_tower(
    config, tmp_path, changes, match
):
  found = small_embeddings.write(tmp_path / "embedded", config, **changes)
  with pytest.raises(UserError, match=match):
    tower.check_evaluation(config, found, "0" * 64)
