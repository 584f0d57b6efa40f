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


def stopping(**changes):
  return {"metric": "train/loss", "patience": 2} | changes


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
        ("model.dtype", "float33", "model.dtype must be .*got 'float33'\\."),
        ("model.dtype", "float16", "gradients underflow in float16"),
        ("model.text.dtype", "float16", "config.model.text.dtype must be one"),
        ("model.temperature_init", 0.0, "temperature_init must be a positive"),
        ("model.temperature_init", -1, "temperature_init must be a positive"),
        ("model.temperature_init", 1e9, "from 0.0001 to 10000, such as 10"),
        ("model.bias_init", -1e30, "bias_init must be None or from -10000"),
        ("model.bias_init", float("nan"), "bias_init must be a finite number"),
        ("model.remat", "yes", "remat must be none, full or dots"),
        ("watchdog.step_second", 9.0, "no 'step_second'; .*'step_seconds'"),
        ("watchdog.data_seconds", 0.0, "a positive number of seconds; got 0"),
        ("watchdog.peer_seconds", "1", "peer_seconds must be of type float"),
        ("profile.workdir", "x", "config.profile has no 'workdir'"),
        ("profile.steps", 3, "profile.steps must be of type Sequence; got 3"),
        ("profile.steps", (3, 0), "whole numbers from 1 up; got 0"),
        ("loss.name", "ring", "config.loss.name must be one of .*got 'ring'"),
        ("loss.blocks", 3, "config.loss has no 'blocks'; did you mean 'block'"),
        ("loss.mesh", 3, "config.loss has no 'mesh'"),
        ("loss.block", 0, "config.loss.block must be a positive integer"),
        ("model.bias_init", None, r"ring_sigmoid learns \['b'\], which the mo"),
        ("model.out_dim", 0, "config.model cannot be built: "),
        (
            "evals.second",
            {
                "type": "zeroshot",
                "dataset": "colors",
                "split": "all",
                "every_steps": 1,
            },
            "evals.colors and config.evals.second write the same metrics, zero",
        ),
        ("optim.num_examples", 3, "config.optim has no 'num_examples'"),
        ("optim.schedule", [".*"], "optim.schedule must be a list of pairs"),
        ("optim.lr", "fast", "config.optim.lr must be of type float"),
        ("optim.lr", -1.0, "config.optim.lr must be a number from 0 up"),
        ("optim.max_temperature", 9.0, "at least .*temperature_init = 10.0"),
        ("sharding", [("txt", "fsdp", 1)], "config.sharding must be a list of"),
        ("sharding", [(".*", 3)], "sharding of '.*' must be .*got 3"),
        ("sharding", [(".*", (None, 3))], r"sharding of .*got \(None, 3\)"),
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
        ("evals.colors.gallery", -1, "colors.gallery must be a whole number"),
        ("evals.colors.every_steps", 1.5, "every_steps must be of type int"),
        ("evals.other", 3, "evals.other.type must be one of .*; got 3"),
        ("evals.other", {"type": []}, r"evals.other.type must be .*; got \[\]"),
        ("evals.other", {}, "config.evals.other.type must be one of"),
        ("evals.other", {"type": "zeroshot"}, "other.every_steps is missing"),
        ("ckpt.save_step", 3, "config.ckpt has no 'save_step'; did you"),
        ("ckpt.keep_every", -1, "keep_every must be a whole number from 0 up"),
        (
            "ckpt.best",
            "zeroshot/colours/top1",
            "did you mean 'zeroshot/colors/top1'",
        ),
        ("ckpt.best", "zeroshot/colors", "did you mean 'zeroshot/colors/top"),
        ("ckpt.best", "loss", "train/loss or a score .*got 'loss': "),
        ("ckpt.best_mode", "max", "best_mode needs config.ckpt.best"),
        ("ckpt.best_mode", "up", "best_mode must be one of '', 'min', 'max'"),
        ("early_stopping", {"metric": "train/loss"}, "patience is missing"),
        ("early_stopping", stopping(patience=0), "patience must be a positive"),
        ("early_stopping", stopping(mode="up"), "stopping.mode must be one of"),
        (
            "early_stopping",
            stopping(min_delta=-1.0),
            "min_delta must be at lea",
        ),
        (
            "early_stopping",
            stopping(metric="top1"),
            "metric must be train/loss",
        ),
        ("early_stopping", stopping(metrik=1), "has no 'metrik'; did you mean"),
        ("wandb", {}, "config.wandb.project is missing"),
        ("wandb", {"project": ""}, "project must name a project"),
        (
            "wandb",
            {"project": "a", "mode": "of"},
            "mode must be one of 'online'",
        ),
        ("seed", 2**31, "config.seed must be at most 2147483647"),
        ("loss.name", ["a"], "config.loss.name must be one of"),
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


def test_optional_sections_take_their_defaults_when_they_are_there(config):
  config_check.validate(config)
  assert config.ckpt.to_dict() == dict(
      save_steps=4, keep=2, keep_every=0, best="", best_mode=""
  )
  assert "early_stopping" not in config and "wandb" not in config
  with config.unlocked():
    config.early_stopping = stopping(metric="zeroshot/colors/top1")
    config.wandb = dict(project="mine")
    config.ckpt.best = "train/loss"
  config_check.validate(config)
  assert config.early_stopping.to_dict() == dict(
      metric="zeroshot/colors/top1", patience=2, mode="", min_delta=0.0
  )
  assert config.wandb.to_dict() == dict(
      project="mine", entity=None, mode="online", name=None
  )


def test_an_override_wins_over_the_file_and_a_default(config):
  config.lock()
  overrides = [
      ("optim.lr", "0.5"),
      ("watchdog.step_seconds", "7"),
      ("ckpt.best", "zeroshot/colors/top1"),
      ("wandb.project", "mine"),
  ]
  config_check.fill(config, overrides)
  config_check.validate(config)
  assert config.optim.lr == 0.5 and config.watchdog.step_seconds == 7.0
  assert config.ckpt.best == "zeroshot/colors/top1"
  assert config.wandb.mode == "online"


def test_a_softmax_model_has_no_bias_to_check(config):
  config.model.bias_init = None
  config.loss.name = "ring_softmax"
  config_check.validate(config)


@pytest.mark.parametrize("path", ["data.pp", "optim.lr", "loss.name", "seed"])
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
