"""A run's tokenizer as transformers' files: they read texts alike, or none."""

import json
from pathlib import Path
import shutil

import numpy as np
import pytest

from siglip_jax.data import preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.weights import hf_tokenizer

DATA = Path("tests/fixtures").absolute()
TOKENIZE = "tokenize(max_len=12, model='tests/fixtures/{}', pad_value={})"


def text(spec):
  return preprocess.Preprocess(spec)


@pytest.mark.parametrize(
    "before",
    ["", "lower|", "lower('ascii')|", "lower('characters')|strip_punctuation|"],
)
@pytest.mark.parametrize(
    "file, pad",
    [
        ("spiece.model", 1),
        ("spiece.model", 0),
        ("gemma_tokenizer.json", 0),
        ("gemma.model", 0),
    ],
)
def test_tokenizers_read_as_before(tmp_path, before, file, pad):
  spec = before + TOKENIZE.format(file, pad)
  hf_tokenizer.write(tmp_path, text(spec))
  config = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert config["model_max_length"] == 12
  assert config["eos_token"] == ("<eos>" if "gemma" in file else "</s>")
  assert (config["pad_token"] == config["eos_token"]) == (pad == 1)
  again = preprocess.Preprocess(
      config["siglip_jax_text"], tokenizer_path=tmp_path / "tokenizer.json"
  )
  rng = np.random.default_rng(0)
  for t in hf_tokenizer.PROBES:
    np.testing.assert_array_equal(
        again({"text": t}, rng)["text"], text(spec)({"text": t}, rng)["text"]
    )


@pytest.mark.parametrize(
    "spec, match",
    [
        (
            "copy('text', 't')|" + TOKENIZE.format("spiece.model", 1),
            "can lower",
        ),
        (
            TOKENIZE.format("spiece.model", 1).replace("m", "eos='yes', m", 1),
            "eos='sticky'",
        ),
        (
            TOKENIZE.format("spiece.model", "0, space='marked'"),
            "after lower and strip_punctuation",
        ),
    ],
)
def test_what_transformers_cannot_do_is_refused(tmp_path, spec, match):
  with pytest.raises(UserError, match=match):
    hf_tokenizer.write(tmp_path, text(spec))


def test_a_tokenizer_that_would_read_otherwise_is_refused(tmp_path):
  # Its own lower case comes first, and this model was trained without.
  path = tmp_path / "t.json"
  content = json.loads((DATA / "gemma_tokenizer.json").read_text())
  content["post_processor"] = None
  path.write_text(json.dumps(content))
  pp = text(f"tokenize(max_len=12, model={str(path)!r}, pad_value=0)")
  wrong = dict(content, normalizer={"type": "Lowercase"})
  shutil.copyfile(path, tmp_path / "right.json")
  path.write_text(json.dumps(wrong))
  pp.tokenizer.digest = Tokenizer(path).digest  # as if it read the file so
  with pytest.raises(UserError, match="read texts otherwise .* cannot be"):
    hf_tokenizer.write(tmp_path, pp)
