"""Operations on colors and sharpness: what they change, and by how much."""

import fakes
import numpy as np
import pytest

from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError


def run(spec, seed=0, **record):
  return Preprocess(spec)(record, np.random.default_rng(seed))


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
