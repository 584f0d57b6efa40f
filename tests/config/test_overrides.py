"""--config.KEY=TEXT: what texts mean, and which are refused."""

import json

import fakes
import ml_collections
import pytest

from siglip_jax.config import overrides
from siglip_jax.errors import UserError


@pytest.fixture
def config():
  return fakes.tiny("images", "t.model").lock()


def value(config, setting):
  for key in setting.split("."):
    config = config[key]
  if isinstance(config, ml_collections.ConfigDict):
    return config.to_dict()
  return config


SCHEDULE = [("img/.*", None), (".*", {"decay": "cosine", "warmup_steps": 2})]


@pytest.mark.parametrize(
    "setting, text, expected",
    [
        ("seed", "7", 7),
        ("optim.lr", "1", 1.0),
        ("optim.lr", "1e-3", 1e-3),
        ("model.bias_init", "-10", -10.0),
        ("model.bias_init", "None", None),
        ("optim.clip_norm", "None", None),
        ("optim.clip_norm", " 2.5", 2.5),
        ("model.scan", "true", True),
        ("model.scan", "False", False),
        ("model.scan", "0", False),
        ("model.scan", True, True),
        ("model.scan", False, False),
        ("data.path", "a, b=[c]", "a, b=[c]"),
        ("data.path", "None", None),
        ("data.path", "3", "3"),
        ("data.split", "None", "None"),
        ("data.pp", 'lower|keep("image")', 'lower|keep("image")'),
        ("data.pp", "", ""),
        ("model.out_dim", "64", 64),
        ("model.out_dim", "(None, 64)", (None, 64)),
        ("model.out_dim", "[None, 64]", (None, 64)),  # as a tuple was
        ("profile.steps", "(2,3)", (2, 3)),
        ("evals.colors.classes", '["train"]', ["train"]),
        ("optim.schedule", str(SCHEDULE), SCHEDULE),
        (
            "optim.schedule",
            '[("img/.*", None), (".*", dict(decay="cosine", warmup_steps=2))]',
            SCHEDULE,
        ),
        ("optim.schedule", r'[("a\d+", None)]', [(r"a\d+", None)]),
        ("sharding", '[(".*", (None, "tensor"))]', [(".*", (None, "tensor"))]),
        ("optim.lr_mults", '[(".*", 2)]', [(".*", 2)]),
        ("optim.wd_mults", "()", ()),
        ("optim.name", "lion", "lion"),
        ("optim.options", '{"b2": 0.9}', {"b2": 0.9}),
        ("optim.options.b2", "0.9", 0.9),
        ("model.dtype", "bfloat16", "bfloat16"),
        ("model.image.dtype", "bfloat16", "bfloat16"),
        ("loss.dtype", "bfloat16", "bfloat16"),
        ("init", '{"img": {"path": "w.npz"}}', {"img": {"path": "w.npz"}}),
        ("init.img.path", "w.npz", "w.npz"),
        ("init.img.dont_load", "('head/.*',)", ("head/.*",)),
        ("early_stopping.patience", "3", 3),
        ("evals", "{}", {}),
        ("evals.new", "dict(type='retrieval')", {"type": "retrieval"}),
        ("preprocess.variant", "siglip-b16-224", "siglip-b16-224"),
    ],
)
def test_a_text_becomes_what_the_file_could_have_set(
    config, setting, text, expected
):
  overrides.apply(config, [(setting, text)])
  actual = value(config, setting)
  assert actual == expected and type(actual) is type(expected)
  json.dumps(config.to_dict(), allow_nan=False)
  assert config.is_locked and config.optim.is_locked


@pytest.mark.parametrize(
    "setting, text, match",
    [
        ("seed", "1.5", "--config.seed must be of type int; got '1.5'"),
        ("seed", "many", "seed must be of type int; got 'many'"),
        ("seed", "True", "seed must be of type int; got 'True'"),
        ("seed", "None", "seed must be of type int; got 'None'"),
        ("seed", True, "--config.seed needs a value of type int"),
        ("data.path", False, "data.path needs a value of type str or None"),
        ("optim.lr", "fast", "lr must be of type float; got 'fast'"),
        ("optim.lr", "nan", "--config.optim.lr must be a finite number; got"),
        ("optim.clip_norm", "-Inf", "clip_norm must be a finite number"),
        ("optim.lr", "1e999", "lr must be of type float; got '1e999'"),
        ("optim.lr", "1" + "0" * 400, "lr must be of type float"),
        ("optim.lr", "1 + 1", "lr must be of type float"),
        ("model.scan", "2", "scan must be of type bool; got '2'"),
        (
            "optim.schedule",
            '[("img/.*", None',
            r"schedule must be of type Sequence, as a Python literal such as"
            r" '\[\(\"img/",
        ),
        ("optim.schedule", "img/.*", "type Sequence, as a Python literal"),
        ("optim.schedule", "'a'", "schedule must be of type Sequence"),
        ("optim.schedule", "__import__('os').getpid()", "a Python literal"),
        ("optim.schedule", "[dict([])]", "a Python literal"),
        ("optim.schedule", "[dict(**{})]", "a Python literal"),
        ("optim.schedule", "[dict(a=1, a=2)]", "a Python literal"),
        ("optim.schedule", "[" * 5000, "a Python literal"),
        ("optim.schedule", "[(b'a', None)]", "a Python literal"),
        ("optim.schedule", "[({1}, None)]", "a Python literal"),
        ("optim.lr_mults", "[('.*', 1e999)]", "a Python literal"),
        ("init", "{1: 2}", "--config.init must be of type Mapping"),
        ("init", "w.npz", "init must be of type Mapping, .* '{\"a\": 1}'"),
        ("init", '{"a.b": 1}', "init cannot be set to .*dots"),
        ("evals.new", "3", "evals.new must be of type Mapping"),
        ("evals.color.split", "x", "sets no 'color'; did you mean 'colors'"),
        ("optim.nme", "x", "--config.optim.nme: the config sets no 'nme'; did"),
        ("batchsize", "3", "sets no 'batchsize'; did you mean 'batch_size'"),
        ("init.im.path", "x", "sets no 'im'; .*'img'"),
        ("init.img.pth", "x", "sets no 'pth'; did you mean 'path'"),
        ("seed.x", "3", r"the config sets no 'x'\."),
        ("optim.lr.x.y", "3", "sets no 'x'"),
        ("", "3", "the config sets no ''"),
        ("optim..lr", "3", "sets no ''"),
        ("sharding[5]", "3", "sets no 5"),
        ("early_stopping.metrc", "x", "did you mean 'metric'"),
    ],
)
def test_other_texts_and_settings_are_refused_in_one_line(
    config, setting, text, match
):
  before = config.to_dict()
  with pytest.raises(UserError, match=match) as e:
    overrides.apply(config, [(setting, text)])
  assert "\n" not in str(e.value)
  if "." not in setting:
    assert config.to_dict() == before


def test_what_lies_in_a_list_can_be_changed_in_place(config):
  overrides.apply(config, [("optim.schedule[0][1].warmup_steps", "3")])
  assert config.optim.schedule[0][1]["warmup_steps"] == 3
  with pytest.raises(UserError, match="cannot be set to 'x'"):
    overrides.apply(config, [("optim.schedule[0][0]", "x")])


def test_later_ones_win_and_none_undoes_an_earlier_one(config):
  overrides.apply(config, [("seed", "1"), ("seed", "2")])
  assert config.seed == 2
  lists = [("optim.schedule", str(SCHEDULE)), ("optim.lr", "2")]
  overrides.apply(config, lists)
  with pytest.raises(UserError, match="optim would replace --config.optim.sch"):
    overrides.apply(config, [*lists, ("optim", "{}")])


def test_a_field_that_refers_to_another_changes_both(config):
  with config.unlocked():
    config.text_len = config.get_ref("image_size")
  overrides.apply(config, [("image_size", "32")])
  assert config.text_len == 32


def test_a_setting_of_the_files_own_keeps_its_type(config):
  with config.unlocked():
    config.mine = dict(size=3, name=None)
  overrides.apply(config, [("mine.size", "4"), ("mine.name", "a")])
  assert config.mine.to_dict() == dict(size=4, name="a")
  with pytest.raises(UserError, match="mine.size must be of type int"):
    overrides.apply(config, [("mine.size", "a")])
