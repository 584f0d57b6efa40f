"""Records of several texts, of which one is called "text"."""

import numpy as np

from siglip_jax.data.tables import several
from siglip_jax.data.texts import Texts


def test_a_column_text_is_drawn_as_any_other():
  texts = Texts.of(None, {"text": 1.0, "other": 1.0})
  raw = {"text": ["a", ""], "other": "b"}
  record = several.with_text(texts, raw)
  assert record["text"] == ["a", "b"] and record["other"] == "b"
  rng = np.random.default_rng(0)
  draws = [several.draw(texts, record, rng)["text"] for _ in range(300)]
  assert 120 < draws.count("a") < 180 and set(draws) == {"a", "b"}
  again = several.draw(texts, several.draw(texts, record, rng), rng)
  assert again["text"] in "ab"


def test_one_text_stays_a_text():
  texts = Texts.of("text", None)
  record = several.with_text(texts, {"text": "a", "x": 1})
  assert record == {"text": "a", "x": 1}
  assert several.draw(texts, record, np.random.default_rng(0)) == record
