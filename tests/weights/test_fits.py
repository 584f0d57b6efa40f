"""A tokenizer is the one that a model was trained with, or is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import fits

SMALL = Path("tests/fixtures/small.model")


@pytest.fixture(scope="module")
def small():
  return tokenizer.Tokenizer(SMALL)


def test_rows_may_be_left_over_unless_they_must_all_be_used(small):
  pieces = small.vocab_size
  fits.check(small, rows=pieces + 1)
  fits.check(small, rows=pieces, exact=True)
  match = f"{pieces + 1} rows .* a tokenizer of {pieces + 1} pieces; .*{pieces}"
  with pytest.raises(UserError, match=match):
    fits.check(small, rows=pieces + 1, exact=True)


def test_every_piece_needs_a_row(small):
  pieces = small.vocab_size
  match = f"of at most {pieces - 1} pieces; .*small.model has {pieces}"
  with pytest.raises(UserError, match=match):
    fits.check(small, rows=pieces - 1)


def test_a_released_model_needs_its_own_file(small):
  variant = zoo.get("siglip-b16-224")
  with pytest.raises(UserError, match="the tokenizer c4_en, of 32000 pieces"):
    fits.check(small, rows=32_000, variant=variant)
  rows = small.vocab_size
  text = dict(variant.model["text"], vocab_size=rows)
  own = dataclasses.replace(
      variant,
      model=dict(variant.model, text=text),
      tokenizer_sha256=small.digest,
  )
  fits.check(small, rows=rows, variant=own)
  other = dataclasses.replace(own, tokenizer_sha256="0" * 64)
  with pytest.raises(UserError, match="and sha256 000000000000...; .* has sha"):
    fits.check(small, rows=rows, variant=other)


def test_a_file_given_counts_more_than_the_one_in_the_string(small):
  spec = "lower|tokenize(max_len=5, model='gone.model')"
  pp = fits.open_text(spec, tokenizer=SMALL)
  assert pp.tokenizer.digest == small.digest
  ids = pp({"text": "A CAT"}, np.random.default_rng(0))["text"]
  np.testing.assert_array_equal(ids, small.encode("a cat", max_len=5))


def test_of_a_released_model_it_is_told_where_the_tokenizer_is():
  spec = "tokenize(max_len=5, model='gone.model')"
  with pytest.raises(tokenizer.TokenizerMissing, match="no tokenizer gone.m"):
    fits.open_text(spec)
  match = "no tokenizer gone.model.* That of siglip2-b16-256 is published as g"
  with pytest.raises(UserError, match=match):
    fits.open_text(spec, variant=zoo.get("siglip2-b16-256"))
