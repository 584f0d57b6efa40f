"""A record's texts are drawn by weight and uniformly; empty ones are not."""

from collections import Counter

import numpy as np
import pytest

from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError


def _shares(texts, record, draws=20_000):
  rng = np.random.default_rng(0)
  count = Counter(texts.draw(record, rng)["text"] for _ in range(draws))
  return {text: n / draws for text, n in count.items()}


def test_keys_are_drawn_by_weight_and_lists_uniformly():
  texts = Texts.of(None, {"txt": 1, "json:more": 3})
  shares = _shares(texts, {"txt": "a", "json:more": ["b", "c", "d"]})
  expected = {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}
  assert shares == pytest.approx(expected, abs=0.01)
  assert texts.keys == ("txt", "json:more")


@pytest.mark.parametrize("empty", [None, "", " \n", [], ["", None]])
def test_empty_texts_are_passed_over(empty):
  texts = Texts.of(None, {"txt": 0.9, "alt": 0.1})
  assert _shares(texts, {"txt": empty, "alt": "b"}, 50) == {"b": 1.0}
  assert texts.all({"txt": empty, "alt": "b"}) == ["b"]
  assert texts.draw({"txt": empty}, np.random.default_rng(0))["text"] == ""
  assert texts.all({"txt": empty}) == []


def test_a_single_text_stays_one_and_uses_no_chance():
  texts = Texts.of("caption", None)
  rng = np.random.default_rng(0)
  record = {"caption": "a", "image": b"x"}
  assert texts.draw(record, rng) == record | {"text": "a"}
  assert rng.random() == np.random.default_rng(0).random()
  assert texts.all(record) == "a"
  assert texts.all({"caption": ["a"]}) == ["a"]
  assert texts.all({"caption": np.array(["a", "b"], object)}) == ["a", "b"]
  assert Texts.of(None, None).keys == ("text",)
  assert Texts.of(None, None, default="txt").keys == ("txt",)


@pytest.mark.parametrize("value", [3, b"x", {"a": 1}, ["a", 3]])
def test_other_values_are_refused_by_name(value):
  texts = Texts.of("caption", None)
  with pytest.raises(UserError, match="a list of strings; 'caption' (is|has)"):
    texts.all({"caption": value})
  with pytest.raises(UserError, match="'caption'"):
    texts.draw({"caption": value}, np.random.default_rng(0))


@pytest.mark.parametrize(
    "weight", [0, -1, float("inf"), float("nan"), "1", True]
)
def test_weights_must_be_positive(weight):
  with pytest.raises(UserError, match="positive weight.*'b' has"):
    Texts.of(None, {"a": 1, "b": weight})


def test_either_text_or_texts():
  with pytest.raises(UserError, match="either `text`.* or `texts`"):
    Texts.of("a", {"b": 1})
  with pytest.raises(UserError, match="at least one key"):
    Texts.of(None, {})
