"""The preprocessing strings of a config against each other, data and model."""

import dataclasses

import fakes
import ml_collections
import pytest

from siglip_jax.config import strings
from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError

SOURCE = fakes.ListSource(
    [{"image": fakes.png((i, 0, 0)), "text": f"number {i}"} for i in range(5)]
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp("preprocessing") / "t.model"
  tokenizer.train(["some numbers"], path, vocab_size=300)
  space: dict = {}
  exec(fakes.tiny_config("images", path), space)
  return space["get_config"]().to_dict()


def make(config, source=SOURCE, pp=None, image=None, **changes):
  c = ml_collections.ConfigDict(config | changes)
  c.data.pp = (pp or "{}").format(c.data.pp)
  c.preprocess.image = image or c.preprocess.image
  return strings.make(c, source)


def test_what_they_have_in_common(config):
  made = make(config)
  assert made.value_range == (-1.0, 1.0)
  assert made.tokenizer is made.text.tokenizer
  assert len(dataclasses.fields(made)) == 5


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(image="decode|resize(16)|value_range(0,1)"), "same value_range"),
        (dict(image="decode|resize(16)"), "got .* and None"),
        (
            dict(image="decode|resize(8)|value_range(-1,1)"),
            r"preprocess.image must make 'image' uint8 .*\(16, 16, 3\).*\(8, 8",
        ),
        (dict(image_size=24), r"config.data.pp must make 'image' .*\(24, 24"),
        (dict(text_len=9), r"config.data.pp must make 'text' int32 .*\(9,\)"),
        (dict(pp='{}|keep("text")'), "must make 'image' .*; got none"),
        (dict(pp='{}|keep("image")'), "must make 'text' .*; got none"),
        (dict(source=fakes.ListSource([])), "data are empty"),
        (dict(source=fakes.ListSource([{"image": b""}])), "could not be read"),
    ],
)
def test_what_does_not_fit_is_named(config, changes, match):
  with pytest.raises(UserError, match=match):
    make(config, **changes)


def test_the_vocabulary_holds_the_tokenizer(config):
  model = config["model"]
  small = model | {"text": model["text"] | {"vocab_size": 100}}
  match = "embedding of 100 rows .*vocab_size. needs"
  with pytest.raises(UserError, match=match):
    make(config, model=small)


def test_only_pieces_that_no_text_has_may_lack_a_row(config, monkeypatch):
  model = config["model"]
  text = model["text"] | {"vocab_size": 250_000}
  for pieces in (250_100, 250_101):
    monkeypatch.setattr(tokenizer.Tokenizer, "vocab_size", pieces)
    if pieces == 250_100:  # mC4's
      make(config, model=model | {"text": text})
    else:
      with pytest.raises(UserError, match="embedding of 250000 rows"):
        make(config, model=model | {"text": text})
