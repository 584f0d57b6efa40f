"""Every config is valid and its step has a shape."""

from pathlib import Path

from config_files import get
import jax
import pytest

from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax.config import check as config_check
from siglip_jax.data.preprocess import parse
from siglip_jax.errors import UserError
from siglip_jax.run import Run

CONFIGS = sorted(p.stem for p in Path("configs").glob("*.py"))
LIT = ["b8_lit", "g14_lit", "l256_lit"]
# Of folders that are not there: what a config says needs none.
CACHED = "embeddings=nowhere,eval_embeddings=nowhere"


@pytest.mark.parametrize(
    "name, arg", [(n, None) for n in CONFIGS] + [(n, CACHED) for n in LIT]
)
def test_config_is_valid_and_its_step_keeps_the_states_shape(name, arg):
  module, config = get(name, arg)
  config_check.validate(config)
  assert "row" in module.__doc__  # says which published row it follows
  run = Run(config, sharding.make_mesh(**config.mesh))
  state, metrics = jax.eval_shape(
      run.train_step, run.state_shapes, run.batch_shapes()
  )
  as_tuples = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype), t)
  assert as_tuples(state) == as_tuples(run.state_shapes)
  assert metrics["train/loss"].shape == ()


def test_lit_configs_hold_no_optimizer_memory_for_the_locked_tower():
  _, config = get("l256_lit")
  run = Run(config, sharding.make_mesh())
  moments = [
      "/".join(str(getattr(k, "key", k)) for k in path)
      for path, _ in jax.tree_util.tree_leaves_with_path(
          run.state_shapes.opt_state
      )
  ]
  assert any("txt/" in m for m in moments)
  assert not any("img/" in m for m in moments)
  assert all(n.startswith("img/") for n in run.optimizer.frozen)
  assert run.optimizer.frozen == {
      n for n in tree.flatten(run.state_shapes.params) if n.startswith("img/")
  }


def test_on_embeddings_there_is_no_image_tower_and_the_rest_is_the_same():
  online, cached = (get("l256_lit", arg)[1] for arg in (None, CACHED))
  shapes = [Run(c, sharding.make_mesh()).state_shapes for c in (online, cached)]
  online, cached = (tree.flatten(s.params) for s in shapes)
  assert cached == {n: x for n, x in online.items() if n[:4] != "img/"}
  assert len(cached) < len(online)
  online, cached = (jax.tree.leaves(s.opt_state) for s in shapes)
  assert online == cached


def test_unknown_keys_are_errors_with_a_suggestion():
  _, config = get("emoji")
  with config.unlocked():
    config.optim.warmup = 3
  with pytest.raises(UserError, match=r"config\.optim has no 'warmup'; known"):
    config_check.validate(config)
  _, config = get("emoji")
  with config.unlocked():
    config.batchsize = 3
  with pytest.raises(UserError, match="did you mean 'batch_size'"):
    config_check.validate(config)


def test_arguments_have_types_and_names():
  assert get("emoji", "steps=7")[1].total_steps == 7
  with pytest.raises(UserError, match="did you mean 'steps'"):
    get("emoji", "step=7")
  with pytest.raises(UserError, match="must be of type int"):
    get("emoji", "steps=many")


@pytest.mark.parametrize("size", [4, 13])
def test_a_batch_that_does_not_divide_names_the_nearest(size):
  _, config = get("emoji")
  config.batch_size = size
  with pytest.raises(UserError, match="the nearest are 8 and 16"):
    Run(config, sharding.make_mesh())


def test_microbatch_must_divide_the_batch():
  _, config = get("emoji")
  config.microbatch = 100
  match = "divide config.batch_size.* divides are 100 and 200"
  with pytest.raises(UserError, match=match):
    config_check.validate(config)


def test_every_language_trained_on_is_evaluated():
  _, config = get("emoji", "langs=en+de+ja")
  config_check.validate(config)
  assert all(f"names/{lang}" in config.data.pp for lang in ("en", "de", "ja"))
  for split in ("unseen_combination", "unseen_thing"):
    texts = {
        e.text
        for e in config.evals.values()
        if (e.type, e.split) == ("retrieval", split)
    }
    assert texts == {"names/en", "names/de", "names/ja"}
  names = [e.dataset for e in config.evals.values()]
  assert len(names) == len(set(names))  # or figures would overwrite another


def test_one_argument_of_folder_sets_all_that_must_agree():
  _, config = get("folder", "text_len=16,dtype=bfloat16,tokenizer=a'b,\"c")
  config_check.validate(config)
  assert config.text_len == 16 and "max_len=16" in config.data.pp
  assert config.model.dtype == "bfloat16"
  name, _, options = parse(config.preprocess.text)[-1]
  assert name == "tokenize" and options["model"] == "a'b,\"c"


def test_data_of_folder_are_trained_on_and_evaluated():
  _, config = get("folder", "path=a,b")
  assert config.data.path == config.evals.captions.path == "a,b"
  arg = "name=coco,data_dir=d,text=cap's,train_split=train[:90%],val_split=val"
  _, config = get("folder", arg)
  for section, split in (
      (config.data, "train[:90%]"),
      (config.evals.captions, "val"),
  ):
    assert (section.name, section.data_dir, section.split) == (
        "coco",
        "d",
        split,
    )
    assert "path" not in section
  assert ("pick", ["cap's"], {}) in parse(config.data.pp)
  assert config.evals.captions.text == "cap's"
  assert not get("folder", "val_split=")[1].evals


def test_folder_starts_from_weights_and_locks_a_tower():
  _, config = get("folder", "init=runs/a,lock=image")
  assert {k: v.path for k, v in config.init.items()} == dict.fromkeys(
      ("img", "txt", "t", "b"), "runs/a"
  )
  assert config.optim.schedule[0] == ("img/.*", None)
  assert "init" not in get("folder")[1]


@pytest.mark.parametrize(
    "arg, match",
    [
        ("lock=image", "lock=image needs init=, the weights"),
        ("lock=both,init=a", "lock must be one of none, image, text; got 'bo"),
        ("path=a,name=b", "At most one of path=, name= may be .*path=a and na"),
        ("pth=x", "Unknown config argument 'pth'; did you mean 'path'"),
    ],
)
def test_mistakes_in_arguments_of_folder_are_named(arg, match):
  with pytest.raises(UserError, match=match):
    get("folder", arg)
