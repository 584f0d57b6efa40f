"""SentencePiece models as the tokenizers library's: the same pieces."""

import io
from pathlib import Path

import awkward
import pytest
import sentencepiece as spm

from siglip_jax.errors import UserError
from siglip_jax.weights import hf_pieces

DATA = Path("tests/fixtures")
TEXTS = [*awkward.texts(), *(t.lower() for t in awkward.texts())]


def check(data):
  model = spm.SentencePieceProcessor(model_proto=data)
  built = hf_pieces.read(data, path="x")
  for text in TEXTS:
    found = built.encode(text, add_special_tokens=False).ids
    wanted = model.encode(text)
    if len(set(text.lower())) == 1:  # such runs have many equally good cuts
      found, wanted = sorted(found), sorted(wanted)
    assert found == wanted, repr(text)


def trained(**options):
  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(t for x in TEXTS for t in x.split("\n") if t),
      model_writer=model,
      vocab_size=600,
      hard_vocab_limit=False,
      num_threads=1,
      minloglevel=2,
      **options,
  )
  return model.getvalue()


@pytest.mark.parametrize("name", ["spiece.model", "gemma.model"])
def test_models_of_both_generations(name):
  check((DATA / name).read_bytes())


def test_byte_pairs_with_normalisation_and_a_space_in_front():
  check(trained(model_type="bpe", character_coverage=0.98))


def test_other_kinds_are_refused():
  with pytest.raises(UserError, match="x: of .* Give the tokenizer.json"):
    hf_pieces.read(trained(model_type="char"), path="x")
