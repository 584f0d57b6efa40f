"""Validation: what one part of a config says of another, without a device."""

import dataclasses
import subprocess
import sys

import fakes
import ml_collections
import pytest

from siglip_jax.config import check as config_check
from siglip_jax.errors import UserError
from siglip_jax.multihost import watchdog


@pytest.fixture
def config():
  space: dict = {}
  exec(fakes.tiny_config("images", "t.model"), space)
  return space["get_config"]()


def at(section, path):
  """The section of a key, and the key."""
  *names, key = path.split(".")
  for name in names:
    section = section[name]
  return section, key


def test_what_a_config_leaves_out_is_filled_in_and_can_be_changed(config):
  del config.watchdog, config.profile
  config.data.num_workers = 3
  config.lock()
  config_check.validate(config)
  assert config.watchdog.to_dict() == dataclasses.asdict(watchdog.Limits())
  assert config.profile.steps == () and config.data.num_workers == 3
  assert config.data.num_threads == 2 and config.data.cache_mb == 0
  config.watchdog.step_seconds = 5.0
  config_check.validate(config)
  assert config.watchdog.step_seconds == 5.0


def test_a_field_that_refers_to_another_still_does_when_filled(config):
  with config.unlocked():
    config.watchdog = {"step_seconds": 9.0}
    reference = config.watchdog.get_ref("step_seconds")
    config.watchdog.data_seconds = reference
  config_check.fill(config)
  config.watchdog.step_seconds = 5.0
  assert config.watchdog.data_seconds == 5.0


@pytest.mark.parametrize(
    "path, value, match",
    [
        ("data.splitt", "train", "config.data has no 'splitt'; did you mean"),
        ("data.num_threads", -1, "num_threads must be a whole number from 0"),
        ("preprocess.img", "decode", "config.preprocess has no 'img'"),
        ("model.image.widht", 3, "model.image has no 'widht'.*'width'"),
        ("model.image.parent", 3, "config.model.image has no 'parent'"),
        ("model.text.depth", -1, "text.depth must be a whole number from 0"),
        ("model.text.vocab_size", "many", "vocab_size must be of type int"),
        ("model.image.variant", "Q/16", "Unknown model variant 'Q'"),
        ("model.out_dim", [32], "config.model cannot be built: .*range"),
        ("model.dtype", "float33", "config.model cannot be built: .*float33"),
        ("model.remat", "yes", "remat must be none, full or dots"),
        ("watchdog.step_second", 9.0, "no 'step_second'; .*'step_seconds'"),
        ("watchdog.data_seconds", 0.0, "a positive number of seconds; got 0"),
        ("watchdog.peer_seconds", "1", "peer_seconds must be of type float"),
        ("profile.workdir", "x", "config.profile has no 'workdir'"),
        ("profile.steps", (3, 0), "whole numbers from 1 up; got 0"),
        ("loss.name", "ring", "config.loss.name must be one of .*got 'ring'"),
        ("loss.blocks", 3, "config.loss has no 'blocks'; did you mean 'block'"),
        ("loss.mesh", 3, "config.loss has no 'mesh'"),
        ("optim.num_examples", 3, "config.optim has no 'num_examples'"),
        ("optim.schedule", [".*"], "optim.schedule must be a list of pairs"),
        ("optim.lr", "fast", "config.optim.lr must be of type float"),
        ("sharding", [("txt", "fsdp", 1)], "config.sharding must be a list of"),
        ("sharding", [("a", "fsdp"), (".*", "fsdp")], "'a'.*it matches none"),
        ("optim.schedule", [("img/.*", None)], "every parameter needs a rule"),
        ("optim.wd_mults", [("x", 0.0), (".*", 1.0)], "wd_mults.*matches none"),
        ("optim.name", "adm", "config.optim.name must be one of .*got 'adm'"),
        ("optim.options", {"b3": 0.9}, "options of adam has no 'b3'"),
        (
            "optim.schedule",
            [(".*", dict(decay="cosine", warmup_steps=99))],
            "Warm-up .99 steps. .* are longer",
        ),
        ("mesh.devices", 3, "config.mesh has no 'devices'"),
        ("evals.colors.splitt", "x", "evals.colors has no 'splitt'"),
        ("evals.colors.every_steps", 1.5, "every_steps must be of type int"),
        ("evals.other", {}, "config.evals.other.type must be one of"),
        ("evals.other", {"type": "zeroshot"}, "other.every_steps is missing"),
        ("ckpt.save_step", 3, "config.ckpt has no 'save_step'; did you"),
        ("total_steps", "all", "config.total_steps must be of type int"),
        ("preprocess.text", "lower", "preprocess.text must hold tokenize once"),
        (
            "preprocess.text",
            'tokenize(8, "t.model", eos="yes")',
            "must tokenize alike; got .*sticky.*yes",
        ),
        ("text_len", 4, "text_len must be the max_len .* 8 .*; got 4"),
    ],
)
def test_mistakes_are_named(config, path, value, match):
  config_check.validate(config)
  section, key = at(changed := config.to_dict(), path)
  section[key] = value
  with pytest.raises(UserError, match=match):
    config_check.validate(ml_collections.ConfigDict(changed))


@pytest.mark.parametrize(
    "path", ["data.split", "optim.lr", "loss.name", "seed"]
)
def test_what_is_missing_is_named(config, path):
  section, key = at(changed := config.to_dict(), path)
  del section[key]
  with pytest.raises(UserError, match=f"config.{path} (is missing|must be)"):
    config_check.validate(ml_collections.ConfigDict(changed))


def test_validation_touches_no_device():
  code = """
import fakes, jax
from siglip_jax.config import check
space = {}
exec(fakes.tiny_config('images', 't.model'), space)
check.validate(space['get_config']())
assert not jax._src.xla_bridge.backends_are_initialized()
"""
  code = "import sys; sys.path.append('tests')" + code
  done = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
