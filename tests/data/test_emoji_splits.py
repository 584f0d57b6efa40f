"""Emoji taken apart, and what is held out of training."""

import emoji as names_package
import numpy as np
import pytest

from siglip_jax.data import emoji_splits
from siglip_jax.data.emoji_splits import Drawing
from siglip_jax.data.emoji_splits import meaning


def id_of(chars):
  return emoji_splits.emoji_id(map(ord, chars))


@pytest.mark.parametrize(
    "chars, thing, modifiers",
    [
        ("👩🏿‍⚕️", "🧑‍⚕️", {"woman", "dark skin"}),
        ("👨🏽‍🦰", "🧑", {"man", "medium skin", "red hair"}),
        ("🏃‍♀️‍➡️", "🏃", {"woman", "facing right"}),
        ("👫", "🧑‍🤝‍🧑", {"woman", "man"}),
        ("👨‍👩‍👧", "👪", {"man", "woman", "girl"}),
        ("🫱🏻‍🫲🏿", "🤝", {"light skin", "dark skin"}),
        ("🇳🇴", "🇳🇴", set()),
        ("#️⃣", "#️⃣", set()),
        ("🏳️‍🌈", "🏳️‍🌈", set()),
        ("🐈‍⬛", "🐈‍⬛", set()),
    ],
)
def test_sequences_are_taken_apart(chars, thing, modifiers):
  got = meaning(id_of(chars))
  assert got.thing == id_of(thing)
  assert got.modifiers == modifiers


@pytest.fixture(scope="module")
def splits():
  ids = {
      id_of(chars)
      for chars, entry in names_package.EMOJI_DATA.items()
      if entry["status"] == names_package.STATUS["fully_qualified"]
  }
  images = [Drawing(i, s) for i in ids for s in emoji_splits.STYLES]
  same = [(id_of("🇳🇴"), id_of("🇧🇻")), (id_of("🧑‍🎨"), id_of("👨‍🎨"))]
  return emoji_splits.split_images(images, same), images, same


def test_nothing_held_out_is_trained_on(splits):
  splits, _, _ = splits
  train = splits["train"]
  trained = {p.id for p in train}
  meanings = {meaning(i) for i in trained}
  things = {m.thing for m in meanings}
  for p in splits["unseen_thing"]:
    assert meaning(p.id).thing not in things
  for p in splits["other_drawing"]:
    assert p not in set(train) and p.id in trained
  for p in splits["unseen_combination"]:
    m = meaning(p.id)
    assert p.id not in trained and m not in meanings
    assert m.thing in things
    known = set().union(*(x.modifiers for x in meanings))
    assert m.modifiers <= known


def test_splits_have_the_sizes_asked_for_and_no_order(splits):
  splits, images, same = splits
  things = len({meaning(p.id).thing for p in images})
  count = lambda name: len({p.id for p in splits[name]})
  assert 0.03 * things < count("unseen_thing") < 0.07 * things
  assert 0.13 * things < count("other_drawing") < 0.20 * things
  again = emoji_splits.split_images(images[::-1], same[::-1])
  assert again == splits


def test_images_drawn_the_same_go_the_same_way(splits):
  splits, _, same = splits
  of = {p.id: name for name, ps in splits.items() for p in ps}
  for a, b in same:
    assert of[a] == of[b] or {of[a], of[b]} == {"train", "other_drawing"}


def test_duplicates_are_found_by_their_pixels():
  rng = np.random.default_rng(0)
  x = rng.integers(0, 255, (3, 8, 8, 3), np.uint8)
  x[2] = x[0]
  x[2, 0, 0, 0] ^= 1
  assert emoji_splits.duplicates(["a", "b", "c"], x) == [("a", "c")]


def test_variation_selectors_make_no_other_emoji():
  assert id_of("❤️") == id_of("❤") and id_of("🏳️‍🌈") == id_of("🏳‍🌈")
