"""A trained image tower, and whether embeddings are what it makes."""

import shutil

import fakes
import numpy as np
import pytest
import small_embeddings

from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.embed import tower
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import workdirs


@pytest.fixture
def config(place):
  return fakes.tiny(place / "images", place / "tokenizer.model")


def load(config, workdir=None, step=None):
  model = TwoTowers(**config.model.to_dict())
  return tower.load(config, model, workdir, step)


def test_a_tower_comes_from_a_run_or_from_config_init(config, trained):
  wanted = tree.flatten({"img": weights_lib.read(trained).params["img"]})
  by_flag = load(config, str(trained))
  config.init = {"img": {"path": str(trained)}}
  newest = workdirs.kept_steps(trained)[-1]
  for params, origin in (by_flag, load(config)):
    assert origin == f"{trained} at step {newest}"
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


def test_a_tower_may_be_an_earlier_one(config, trained):
  step = workdirs.kept_steps(trained)[0]
  params, origin = load(config, str(trained), step)
  assert origin == f"{trained} at step {step}"
  wanted = tree.flatten(weights_lib.read(trained, step=step).params["img"])
  for name, x in tree.flatten(params["img"]).items():
    np.testing.assert_array_equal(x, wanted[name])
  config.init = {"img": {"path": str(trained), "step": step}}
  assert load(config)[1] == origin


def test_a_run_is_the_run_that_its_checkpoint_is_of(config, trained, tmp_path):
  """A later start may have written another config.json."""
  run = shutil.copytree(trained, tmp_path / "run")
  text = (run / "config.json").read_text()
  (run / "config.json").write_text(text.replace("value_range(-1", "scale(-1"))
  load(config, str(run))
  config.model.image.num_heads = 4
  with pytest.raises(UserError, match="has tower_sizes = .* and the config"):
    load(config, str(run))
  path = "tests/fixtures/big_vision_tiny.npz"
  with pytest.raises(
      UserError, match="workdir of a run; got .*tiny.npz .npz.. Give"
  ):
    load(config, path)
