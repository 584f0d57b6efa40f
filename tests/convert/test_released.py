"""Texts and images become what the released models' libraries make of them.

tests/parity_fixtures.py wrote the numbers with those libraries.
"""

import io
import json

import awkward
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import preprocess
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError

LENGTH, SIDE = 16, 24
TEXTS = {
    "siglip": (
        f"lower|strip_punctuation|tokenize(max_len={LENGTH},"
        " model='tests/fixtures/spiece.model', pad_value=1, space='marked')"
    ),
    "siglip2 sentencepiece": (
        f"lower('characters')|tokenize(max_len={LENGTH},"
        " model='tests/fixtures/gemma.model', pad_value=0)"
    ),
    "siglip2": (
        f"lower('characters')|tokenize(max_len={LENGTH},"
        " model='tests/fixtures/gemma_tokenizer.json', pad_value=0)"
    ),
}
IMAGES = {
    "bicubic": (f"decode|resize({SIDE}, method='bicubic')", 0),
    "bilinear": (f"decode|resize({SIDE})", 0),
    # Its interpolation adds up in another order, and then cuts off.
    "big_vision": (
        f"decode(alpha='ignore')|resize({SIDE}, antialias=False)",
        1,
    ),
}


def run(spec, **record):
  return Preprocess(spec)(record, np.random.default_rng(0))


@pytest.mark.parametrize("kind", TEXTS)
def test_ids(kind):
  with open("tests/fixtures/parity.json", encoding="utf-8") as file:
    expected = json.load(file)[kind.split()[0]]
  texts = awkward.texts()
  assert len(texts) == len(expected) == 400
  pp, rng = Preprocess(TEXTS[kind]), np.random.default_rng(0)
  for text, ids in zip(texts, expected, strict=True):
    assert pp({"text": text}, rng)["text"].tolist() == ids, repr(text)


@pytest.mark.parametrize("kind", IMAGES)
def test_pixels(kind):
  spec, tolerance = IMAGES[kind]
  pp, rng = Preprocess(spec), np.random.default_rng(0)
  with np.load("tests/fixtures/parity_pixels.npz") as expected:
    for name, image in awkward.images().items():
      got = pp({"image": awkward.png(image)}, rng)["image"].astype(int)
      difference = np.abs(got - expected[f"{kind}/{name}"])
      assert difference.max() <= tolerance, name
      assert np.mean(difference > 0) < 0.1, name


def test_three_ways_to_lower_case():
  text = "ΟΔΟΣ İ ÀB"
  lowered = {
      method: run(f"lower({method!r})", text=text)["text"]
      for method in ("text", "characters", "ascii")
  }
  assert run("lower", text=text)["text"] == lowered["text"] == text.lower()
  assert lowered["text"].startswith("οδος")
  assert lowered["characters"].startswith("οδοσ")
  assert lowered["ascii"] == "ΟΔΟΣ İ Àb"
  with pytest.raises(UserError, match="text, characters or ascii; got 'x'"):
    run("lower('x')", text=text)


def test_options_of_tokenize():
  spec = "lower|tokenize(8, 'm', pad_value=0)"
  assert preprocess.tokenize_options(spec) == dict(
      max_len=8, model="m", eos="sticky", pad_value=0, space="plain"
  )
  with pytest.raises(UserError, match="must end in tokenize"):
    preprocess.tokenize_options("tokenize(8, 'm')|lower")
  for wrong, match in (
      ("space='x'", "space must be plain or marked"),
      ("pad_value=-1", "from 0 to 699; got -1"),
      ("pad_value=700", "from 0 to 699; got 700"),
      ("pad_value='<pad>'", "got '<pad>'"),
  ):
    with pytest.raises(UserError, match=match):
      Preprocess(f"tokenize(8, 'tests/fixtures/gemma.model', {wrong})")


def test_resizing_without_antialias_looks_at_four_pixels_alone():
  x = np.zeros((1, 9, 3), np.uint8)
  x[0, 4] = 200
  sparse = run("resize((1, 3), antialias=False)", image=x)["image"]
  assert sparse[0, :, 0].tolist() == [0, 200, 0]
  x[0, 4], x[0, 3] = 0, 200
  assert run("resize((1, 3), antialias=False)", image=x)["image"].max() == 0
  assert run("resize((1, 3))", image=x)["image"].max() > 0
  with pytest.raises(UserError, match="must be bilinear; got 'bicubic'"):
    run("resize(3, 'bicubic', antialias=False)", image=x)


def test_transparency_is_white_or_ignored():
  data = io.BytesIO()
  Image.new("RGBA", (2, 2), (9, 8, 7, 0)).save(data, "png")
  white = run("decode", image=data.getvalue())["image"]
  ignored = run("decode(alpha='ignore')", image=data.getvalue())["image"]
  assert white.min() == 255 and ignored[0, 0].tolist() == [9, 8, 7]
  with pytest.raises(UserError, match="white or ignore; got 'black'"):
    run("decode(alpha='black')", image=data.getvalue())
