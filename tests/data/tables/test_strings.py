"""Texts in one buffer are the texts that went in."""

import pickle

from siglip_jax.data.tables.strings import Strings

TEXTS = ["b", "", "a", "é\U0001f600", "", "caf\udce9", "x" * 1000]


def test_texts_come_back():
  strings = pickle.loads(pickle.dumps(Strings.of(iter(TEXTS))))
  assert [strings[i] for i in range(len(strings))] == TEXTS == list(strings)
  assert len(Strings.of([])) == 0 and not list(Strings.of([]))


def test_a_million_texts_are_small():
  count = 100_000
  strings = Strings.of(f"images/{i:06d}.jpg" for i in range(count))
  assert len(pickle.dumps(strings)) < 26 * count
