"""configs/finetune.py: what is locked, and how inputs are prepared."""

import config_files
import fakes
import pytest

from siglip_jax import tree
from siglip_jax.config import check as config_check
from siglip_jax.errors import UserError
from siglip_jax.models import zoo

NAMES = ["img/embedding/kernel", "txt/head/kernel", "t", "b"]


def get(arg):
  return config_files.get("finetune", arg)[1]


@pytest.mark.parametrize(
    "locked, prefixes",
    [("none", ()), ("image", ("img/",)), ("text", ("txt/",))],
)
def test_what_is_locked(locked, prefixes):
  config = get(f"lock={locked}")
  assert config.to_dict() == get(f"locked={locked}").to_dict()
  rules = tree.assign(config.optim.schedule, NAMES, what="schedule")
  frozen = {n for n, rule in rules.items() if rule is None}
  assert frozen == {n for n in NAMES if n.startswith(prefixes)}
  assert config.optim.wd == 0  # which would pull from where they are good
  with pytest.raises(UserError, match="lock must be one of none, image"):
    get("locked=both")


def test_data_and_dtype_and_start_are_arguments():
  config = get(
      "name=coco,data_dir=d,text=cap,val_split=,init=run,dtype=bfloat16"
  )
  config_check.validate(config)
  assert (config.data.name, config.data.data_dir) == ("coco", "d")
  assert "|pick('cap')|lower" in config.data.pp
  assert config.model.dtype == "bfloat16" and not config.evals
  assert {p.path for p in config.init.values()} == {"run"}
  config = get("path=a,b/c")
  assert config.data.path == config.evals.captions.path == "a,b/c"


def test_of_a_locked_tower_the_embeddings_are_enough():
  config = get("embeddings=d,lock=image,text=cap")
  config_check.validate(config)  # that no image tower is built, locked or read
  assert config.data.embeddings == "d/train"
  assert config.evals.captions.embeddings == "d/validation"
  assert config.data.pp.startswith("pick_crop|pick('cap')|lower")
  assert config.model.embedded and "img" not in config.init
  images = get("lock=image,text=cap")
  assert config.preprocess.to_dict() == images.preprocess.to_dict()


@pytest.mark.parametrize(
    "arg, match",
    [
        ("text_len=32", "text_len must be 64, for which siglip-b16-224's text"),
        ("embeddings=d", "are of a locked image tower: add lock=image"),
        ("embeddings=d,name=x", "At most one of path=, name=, embeddings= may"),
        ("lock=text,locked=image", "locked= is the older name of lock="),
    ],
)
def test_mistakes_in_arguments_are_named(arg, match):
  assert get("text_len=64").text_len == 64
  with pytest.raises(UserError, match=match):
    get(arg)


def test_inputs_are_prepared_as_the_weights_publisher_does(tmp_path):
  variant = zoo.get("siglip2-b16-256")
  for weights, recipe in (
      ("a/b.npz", variant.big_vision),
      ("a/folder", variant.transformers),
  ):
    config = get(f"variant={variant.name},weights={weights},tokenizer=t.model")
    assert config.preprocess.image == recipe.image
    assert config.data.pp.startswith(recipe.image)
    text = recipe.text.replace("'gemma'", "'t.model'")
    assert config.preprocess.text == text and text in config.data.pp
    assert {part: p.path for part, p in config.init.items()} == (
        dict.fromkeys(("img", "txt", "t", "b"), weights)
    )
  (tmp_path / "weights").write_bytes(b"")
  with pytest.raises(UserError, match="must be an .npz, by its name, or a"):
    get(f"weights={tmp_path / 'weights'}")
  with pytest.raises(UserError, match="did you mean 'siglip2-b16-256'"):
    get("variant=siglip2-b16-255")


def test_another_tokenizer_and_a_missing_one_are_refused(
    command, place, trained
):
  def refuse(tokenizer):
    return command.refuse(
        "siglip_jax.main",
        f"--config=configs/finetune.py:path={place / 'images'},"
        f"tokenizer={tokenizer}",
        f"--workdir={place / 'refused'}",
    )

  message = refuse("gone.model")
  assert "There is no tokenizer gone.model" in message
  assert "published as gs://t5-data/vocabs/cc_en.32000/" in message
  assert "and spiece.model of google/siglip-base-patch16-224" in message
  message = refuse(trained / "tokenizer.model")
  assert "siglip-b16-224 needs the tokenizer c4_en, of 32000 pieces" in message
  config = get("")
  config.preprocess.variant = "siglip-b16-225"
  with pytest.raises(UserError, match="no released model 'siglip-b16-225'"):
    config_check.validate(config)


def test_step_0_is_looked_at_before_anything_is_learnt(command, place, trained):
  """A run from trained weights says first how good they are here."""
  config = fakes.tiny_config(place / "images", trained / "tokenizer.model")
  parts = {p: {"path": str(trained)} for p in ("img", "txt", "t", "b")}
  config = config.replace("return c", f"c.init = {parts}\n  return c")
  (place / "again.py").write_text(config)
  done = command.run(
      "siglip_jax.main",
      f"--config={place / 'again.py'}",
      f"--workdir={place / 'again'}",
      "--config.total_steps=2",
      status=0,
  )
  first, second = [x for x in done.out.splitlines() if x.startswith("Step 0: ")]
  assert "with the texts shuffled" in first
  assert "zeroshot/colors/top1" in second
  # Twelve steps on six colors do not make a model: it says so.
  assert "hardly tell true pairs" in done.err
