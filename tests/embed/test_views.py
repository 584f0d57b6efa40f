"""Images of examples by number: each its own, and none in another's place."""

import json

import fakes
import msgpack
import numpy as np
import pytest

from siglip_jax.data import folders
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.embed import views
from siglip_jax.errors import UserError

SOURCE = fakes.ListSource(
    [{"image": fakes.png((40 * i, 0, 9)), "text": f"{i}"} for i in range(5)]
)
BAD = 2  # cannot be read
SOURCE[BAD]["image"] = b"no image"


def crops(spec="decode|resize(4)|value_range(-1,1)", side=4, **options):
  return views.Crops(SOURCE, Preprocess(spec), side=side, **options)


def jittered(source=SOURCE, **options):
  pp = Preprocess("decode|color_jitter(0.9)|resize(4)|value_range(0,1)")
  return views.Crops(source, pp, side=4, **options)


def test_an_example_is_its_number_its_image_and_its_text():
  make = crops()
  number, images, rest = make(3)
  assert number == 3 and msgpack.unpackb(rest) == {"text": "3"}
  assert images.shape == (1, 4, 4, 3) and images.dtype == np.uint8
  assert (images == (120, 0, 9)).all()
  assert make.value_range == (-1.0, 1.0)


def test_what_cannot_be_read_has_no_other_image_in_its_place(caplog):
  make = crops(crops=2)
  number, images, rest = make(BAD)
  assert (number, rest) == (-1, b"") and not images.any()
  assert images.shape == make(0)[1].shape == (2, 4, 4, 3)
  assert f"Skipped record {BAD}: " in caplog.text


def test_crops_depend_on_seed_number_and_crop_alone():
  images = jittered(crops=3, seed=1)(3)[1]
  assert len(np.unique(images, axis=0)) == 3
  np.testing.assert_array_equal(jittered(crops=3, seed=1)(3)[1], images)
  np.testing.assert_array_equal(jittered(crops=2, seed=1)(3)[1], images[:2])
  assert (jittered(crops=3, seed=2)(3)[1] != images).any()
  twins = jittered(fakes.ListSource([SOURCE[3]] * 2), crops=1)
  assert (twins(0)[1] != twins(1)[1]).any()


def test_images_of_another_size_are_named():
  match = r"must be \(5, 5, 3\), .*record 0 \(4, 4, 3\)"
  with pytest.raises(UserError, match=match):
    crops(side=5)(0)


def test_a_batch_is_of_one_part_and_the_last_of_a_part_is_padded():
  parts = [np.array([0, 1, 3]), np.array([], int), np.array([4, BAD])]
  found = list(views.batches(crops(crops=2), parts, 2))
  assert [b["keys"].tolist() for b in found] == [[0, 1], [3, -1], [4, -1]]
  assert {b["images"].shape for b in found} == {(4, 4, 4, 3)}
  assert not found[1]["images"][2:].any() and found[1]["images"][:2].any()
  assert msgpack.unpackb(found[2]["records"][0]) == {"text": "4"}
  assert found[2]["records"][1] == b""
  assert not list(views.batches(crops(), [], 2))


def test_examples_that_share_an_image_say_so(tmp_path):
  folder = fakes.captioned_folder(tmp_path, count=2)
  lines = [
      {"image": name, "text": text}
      for name, text in (("000.png", "a"), ("001.png", "b"), ("000.png", "c"))
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "captions.jsonl").write_text(text)
  make = jittered(folders.folder_source(folder))
  rest = [msgpack.unpackb(make(i)[2]) for i in range(3)]
  assert [r["image_id"] for r in rest] == [0, 1, 0]
  assert [r["text"] for r in rest] == ["a", "b", "c"]
