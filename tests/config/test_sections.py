"""The keys of each section, by where it stands in a config."""

from collections.abc import Mapping

import config_files
import fakes
import pytest

from siglip_jax.config import sections
from siglip_jax.errors import UserError


@pytest.fixture
def config():
  return fakes.tiny("images", "t.model")


def known(config, *path):
  return sections.keys(config, *path)[0]


@pytest.mark.parametrize("name", ["folder", "b16_4k", "emoji_lit", "finetune"])
def test_every_key_that_a_config_sets_is_known_where_it_stands(name):
  def look(section, path):
    keys = known(config, *path)
    for key, value in section.items():
      if path != ("evals",):
        assert key in keys, (path, key)
      if hasattr(value, "keys"):
        look(value, (*path, key))

  config = config_files.get(name)[1]
  look(config, ())


def test_keys_depend_on_what_else_the_config_names(config):
  assert "block" in known(config, "loss") and "ratio" not in known(
      config, "loss"
  )
  config.loss.name = "masked_sigmoid"
  assert "ratio" in known(config, "loss")
  assert "b1" in known(config, "optim", "options")
  config.optim.name = "sgd"
  assert list(known(config, "optim", "options")) == ["momentum"]
  assert "classes" in known(config, "evals", "colors")
  config.evals.colors.type = "retrieval"
  assert "classes" not in known(config, "evals", "colors")


def test_a_section_needs_its_constructors_arguments(config):
  assert sections.keys(config, "ckpt")[1] == ["save_steps", "keep"]
  assert "width" in sections.keys(config, "model", "image")[1]
  config.model.image.variant = "B/16"
  assert sections.keys(config, "model", "image")[1] == []
  assert known(config, "init")["img"] is Mapping
  assert sections.keys(config, "init", "img")[1] == ["path"]


def test_what_is_not_a_section_has_no_keys(config):
  for path in (("seed",), ("init", "im"), ("model", "img"), ("optim", "lr")):
    assert sections.keys(config, *path) == ({}, [])
  config.loss = dict(name=["a"])
  assert "block" not in known(config, "loss")


def test_a_section_is_checked_by_its_name(config):
  c = config.to_dict()
  sections.check(c, "optim")
  c["optim"]["lrr"] = 1
  with pytest.raises(UserError, match="config.optim has no 'lrr'; .*'lr'"):
    sections.check(c, "optim")
  del c["model"]["text"]["width"]
  with pytest.raises(UserError, match="config.model.text.width is missing"):
    sections.check(c, "model", "text")
