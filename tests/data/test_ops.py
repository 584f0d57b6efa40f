"""Preprocessing operations: what they make of images and texts."""

import io

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import ops
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError


def run(spec, seed=0, **record):
  return Preprocess(spec)(record, np.random.default_rng(seed))


def test_resizing():
  x = fakes.ramp(8, 12)
  assert run("resize(5)", image=x)["image"].shape == (5, 5, 3)
  assert run("resize((5, 6))", image=x)["image"].shape == (5, 6, 3)
  assert run("resize_small(4)", image=x)["image"].shape == (4, 6, 3)
  checks = np.indices((8, 8)).sum(0) % 2 * 255
  small = run(
      "resize(2)", image=np.repeat(checks[..., None], 3, 2).astype(np.uint8)
  )["image"]
  assert np.all(abs(small.astype(int) - 127) < 20)  # antialiased


def test_crops_are_parts_of_the_image():
  x = fakes.ramp(6, 8)
  np.testing.assert_array_equal(
      run("central_crop(4)", image=x)["image"], x[1:5, 2:6]
  )
  windows = [x[i : i + 4, j : j + 4] for i in range(3) for j in range(5)]
  found = set()
  for seed in range(200):
    got = run("random_crop(4)", seed, image=x)["image"]
    found |= {i for i, w in enumerate(windows) if np.array_equal(w, got)}
  assert found == set(range(len(windows)))


def test_inception_crops_keep_to_their_area():
  x = np.zeros((40, 40, 3), np.uint8)
  x[:, :20] = 255
  whole = run("inception_crop(4, area_min=100)", image=x)["image"]
  assert whole.shape == (4, 4, 3)
  means = [
      run("inception_crop(4, area_min=5, area_max=20)", s, image=x)["image"]
      for s in range(40)
  ]
  assert {int(m.mean()) for m in means} >= {0, 255}


def test_half_the_images_are_mirrored():
  x = fakes.ramp(2, 3)
  got = [run("flip_lr", s, image=x)["image"] for s in range(200)]
  mirrored = sum(np.array_equal(g, x[:, ::-1]) for g in got)
  same = sum(np.array_equal(g, x) for g in got)
  assert mirrored + same == 200 and 70 < mirrored < 130


def test_affine_moves_by_what_it_may_and_fills_from_the_corner():
  x = np.full((20, 20, 3), 200, np.uint8)
  x[8:12, 8:12] = 0
  still = run("affine(0, 0, 1, 1)", image=x)["image"]
  np.testing.assert_array_equal(still, x)
  centers = []
  for seed in range(50):
    got = run("affine(0, 0.2, 1, 1)", seed, image=x)["image"]
    assert got[0, 0, 0] == 200
    centers.append(
        np.average(
            np.indices((20, 20)), axis=(1, 2), weights=200.0 - got[..., 0]
        )
        - 9.5
    )
  assert 3 < np.abs(centers).max() < 4.6  # 0.2 of the side and a pixel's edge


def test_backgrounds():
  rgba = io.BytesIO()
  Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(rgba, "png")
  data = rgba.getvalue()
  plain = run("decode_rgba|background((1, 2, 3))", image=data)["image"]
  np.testing.assert_array_equal(plain, np.full((2, 2, 3), (1, 2, 3)))
  drawn = {
      tuple(run("decode_rgba|background()", s, image=data)["image"][0, 0])
      for s in range(20)
  }
  assert len(drawn) == 20
  white = run("decode_rgba|background('random', p=0)", image=data)["image"]
  assert white.min() == 255


def test_colors_change_by_what_they_may():
  x = np.full((2, 2, 3), 100, np.uint8)
  got = [
      int(run("color_jitter(brightness=0.3)", s, image=x)["image"][0, 0, 0])
      for s in range(100)
  ]
  assert 69 <= min(got) < 80 and 120 < max(got) <= 130
  np.testing.assert_array_equal(run("color_jitter()", image=x)["image"], x)
  grey = run("grayscale(p=1)", image=fakes.ramp(2, 2))["image"]
  assert np.ptp(grey.astype(int), axis=-1).max() == 0
  np.testing.assert_array_equal(
      run("grayscale(p=0)", image=fakes.ramp(2, 2))["image"], fakes.ramp(2, 2)
  )


def test_jitter_keeps_greys_grey_and_luma_where_it_may():
  luma = np.array([0.299, 0.587, 0.114])
  x = np.random.default_rng(0).integers(96, 160, (8, 8, 3), np.uint8)
  for seed in range(20):
    turned = run("color_jitter(hue=0.1, saturation=0.5)", seed, image=x)[
        "image"
    ]
    np.testing.assert_allclose(turned @ luma, x @ luma, atol=1)
    assert np.abs(turned.astype(int) - x).max() > 2
    grey = np.full((4, 4, 3), 77, np.uint8)
    same = run("color_jitter(0, 0.5, 0.5, 0.5)", seed, image=grey)["image"]
    np.testing.assert_allclose(same, grey, atol=1)


def test_contrast_moves_away_from_the_mean_grey():
  x = np.array([[[40] * 3, [160] * 3]], np.uint8)
  spread = []
  for seed in range(50):
    got = run("color_jitter(contrast=0.5)", seed, image=x)["image"].astype(int)
    assert abs(got.mean() - 100) <= 1
    spread.append(np.ptp(got))
  assert 60 <= min(spread) < 75 and 165 < max(spread) <= 180


def test_affine_turns_by_what_it_may():
  x = np.zeros((41, 41, 3), np.uint8)
  x[19:22, 20:] = 255
  angles = []
  for seed in range(50):
    got = run("affine(30, 0, 1, 1)", seed, image=x)["image"][..., 0]
    y, x_ = np.average(np.indices((41, 41)), axis=(1, 2), weights=got) - 20
    angles.append(np.rad2deg(np.arctan2(y, x_)))
  assert -30.5 < min(angles) < -25 and 25 < max(angles) < 30.5


def test_blur_spreads_and_keeps_the_mean():
  x = np.zeros((21, 21, 3), np.uint8)
  x[10, 10] = 250
  got = run("blur(2.0, p=1)", 1, image=x)["image"].astype(int)
  assert got.max() < 200
  assert abs(got.sum() - x.sum()) < 0.2 * x.sum()
  np.testing.assert_array_equal(run("blur(2.0, p=0)", image=x)["image"], x)


def test_outlines_come_and_go():
  flat = np.full((12, 12, 3), 255, np.uint8)
  flat[3:9, 3:9] = 150
  lined = np.full((12, 12, 3), 255, np.uint8)
  lined[:, 5:7] = 0
  darkest, without = [], 0
  for seed in range(60):
    darkest.append(run("redraw(1, 0.8)", seed, image=flat)["image"].min())
    without += run("redraw(1)", seed, image=lined)["image"].min() == 255
    same = run("redraw(p=0)", seed, image=flat)["image"]
    np.testing.assert_array_equal(same, flat)
  assert 150 - 0.8 * 105 <= min(darkest) + 1 < 90 and max(darkest) == 150
  assert 15 < without < 45


def test_colors_need_rgb():
  for spec in ("color_jitter(0.1)", "grayscale(p=1)"):
    with pytest.raises(UserError, match=r"Colors need RGB; got .*\(4,\)"):
      run(spec, image=fakes.ramp(4, 4, 4))


def test_choice_takes_each_of_its_values():
  got = {run("choice('a', 'b')", s, a="x", b="y")["text"] for s in range(20)}
  assert got == {"x", "y"}
  assert run("choice('a', outkey='c')", a="x") == {"a": "x", "c": "x"}


@pytest.mark.parametrize(
    "name", sorted(set(ops.OPS) - {"decode", "decode_rgba", "background"})
)
def test_operations_repeat_for_a_seed_and_leave_their_input(name):
  arguments = {
      "resize": 4,
      "resize_small": 4,
      "central_crop": 4,
      "random_crop": 4,
      "inception_crop": 4,
      "copy": ("text", "b"),
      "choice": ("text",),
      "pick": ("text",),
      "keep": ("text",),
  }.get(name, ())
  arguments = arguments if isinstance(arguments, tuple) else (arguments,)
  spec = f"{name}({', '.join(map(repr, arguments))})"
  x = fakes.ramp(8, 8)
  first = run(spec, 5, image=x, text="A, b")
  again = run(spec, 5, image=x, text="A, b")
  assert first.keys() == again.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], again[key])
  np.testing.assert_array_equal(x, fakes.ramp(8, 8))


def test_pick_takes_each_of_a_list_and_a_text_as_it_is():
  values = ["a", "b"], ("a", "b"), np.array(["a", "b"]), [b"a", b"b"]
  for value in values:
    got = {run("pick('x')", seed, x=value)["text"] for seed in range(20)}
    assert got == {"a", "b"}
  assert run("pick('x', outkey='y')", x="a") == {"x": "a", "y": "a"}


@pytest.mark.parametrize(
    "value, match",
    [
        (3, "'x' is an int: got 3"),
        (None, "'x' is a NoneType"),
        ([], "'x' is empty"),
        ([3], "'x' has an int: got 3"),
        ([b"\xe9"], "pick cannot be applied, UnicodeDecodeError"),
    ],
)
def test_pick_refuses_what_is_not_a_list_of_texts(value, match):
  with pytest.raises(UserError, match=match):
    run("pick('x')", x=value)


@pytest.mark.parametrize("name", ["lower", "strip_punctuation"])
def test_operations_on_a_text_name_what_they_got_instead(name):
  match = f"{name} cannot be applied to a list: got .'A', 'B'.. Pick one"
  with pytest.raises(UserError, match=match):
    run(name, text=["A", "B"])
  with pytest.raises(UserError, match=f"{name} .* an int: got 3. Put copy"):
    run(name, text=3)
