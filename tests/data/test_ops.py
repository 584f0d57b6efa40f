"""Preprocessing operations: what they make of images and texts."""

import io

import cv2
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


def test_affine_turns_by_what_it_may():
  x = np.zeros((41, 41, 3), np.uint8)
  x[19:22, 20:] = 255
  angles = []
  for seed in range(50):
    got = run("affine(30, 0, 1, 1)", seed, image=x)["image"][..., 0]
    y, x_ = np.average(np.indices((41, 41)), axis=(1, 2), weights=got) - 20
    angles.append(np.rad2deg(np.arctan2(y, x_)))
  assert -30.5 < min(angles) < -25 and 25 < max(angles) < 30.5


def test_choice_takes_each_of_its_values():
  got = {run("choice('a', 'b')", s, a="x", b="y")["text"] for s in range(20)}
  assert got == {"x", "y"}
  assert run("choice('a', outkey='c')", a="x") == {"a": "x", "c": "x"}


def test_choice_draws_by_its_probabilities():
  spec = Preprocess("choice('a', 'b', 'c', p=(0.7, 0.0, 0.3))")
  rng, record = np.random.default_rng(0), {"a": "a", "b": "b", "c": "c"}
  drawn = [spec(record, rng)["text"] for _ in range(4000)]
  assert 0.68 < drawn.count("a") / 4000 < 0.72 and "b" not in drawn


@pytest.mark.parametrize("empty", ["", " \n", b"", [], (), None, np.array([])])
def test_choice_passes_over_what_is_empty(empty):
  spec = "choice('a', 'b', 'c', p=(0.5, 0.25, 0.25))"
  texts = [run(spec, s, a=empty, b="b", c="c")["text"] for s in range(200)]
  assert 70 < texts.count("b") < 130 and texts.count("c") == 200 - texts.count(
      "b"
  )
  fallback = "choice('a', 'b', p=(1, 0))"
  assert run(fallback, a=empty, b="b")["text"] == "b"
  assert run(fallback, a="a", b="b")["text"] == "a"
  for spec in (fallback, "choice('a', 'b')"):
    assert run(spec, a=empty, b=empty)["text"] == ""


def test_choice_without_probabilities_draws_as_it_always_did():
  texts = {str(i): str(i) for i in range(5)}
  for seed in range(20):
    expected = str(np.random.default_rng(seed).integers(5))
    got = run("choice('0', '1', '2', '3', '4')", seed, **texts)["text"]
    assert got == expected


@pytest.mark.parametrize(
    "p", ["(1,)", "(0.5, 0.6)", "(-0.5, 1.5)", "0.5", "('a', 'b')", "(0, 0)"]
)
def test_choice_refuses_what_are_not_probabilities(p):
  with pytest.raises(UserError, match="its 2 keys, which add up to 1, as p="):
    run(f"choice('a', 'b', p={p})", a="a", b="b")


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
        ([3], "'x' has an int: got 3"),
        ([b"\xe9"], "pick cannot be applied, UnicodeDecodeError"),
    ],
)
def test_pick_refuses_what_is_not_a_list_of_texts(value, match):
  with pytest.raises(UserError, match=match):
    run("pick('x')", x=value)


def test_pick_passes_over_blank_texts():
  for seed in range(20):
    assert run("pick('x')", seed, x=["", "a", " ", None])["text"] == "a"
  for nothing in ([], [""], np.array([]), [" ", None]):
    assert run("pick('x')", x=nothing)["text"] == ""


def test_five_captions_are_drawn_alike():
  rng, record = np.random.default_rng(0), {"captions/text": list("abcde")}
  texts = (ops.pick(record, rng, "captions/text") for _ in range(50_000))
  drawn = [example["text"] for example in texts]
  for caption in "abcde":
    assert 0.19 < drawn.count(caption) / 50_000 < 0.21


def test_area_by_opencv_weighs_each_pixel_by_what_is_covered():
  x = np.repeat([[0, 100, 200]], 3, 0)[..., None].repeat(3, 2).astype(np.uint8)
  # Each half covers one and a half of three pixels.
  expected = [[(0 + 100 / 2) / 1.5, (100 / 2 + 200) / 1.5]] * 2
  got = run("resize(2, 'area_cv2')", image=x)["image"]
  np.testing.assert_allclose(got[..., 0], expected, atol=0.51)
  tall = run("resize((9, 1), 'area_cv2')", image=x)["image"]
  np.testing.assert_array_equal(tall, np.full((9, 1, 3), 100))
  ramp = run("resize((1, 30), 'area_cv2')", image=x)["image"][0, :, 0]
  assert len(set(ramp.tolist())) > 15  # interpolated, not repeated
  small = run("resize_small(2, 'area_cv2')", image=fakes.ramp(4, 8))["image"]
  assert small.shape == (2, 4, 3)


def test_resizing_without_antialias_cuts_fractions_off():
  x = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
  exact = cv2.resize(x.astype(np.float64), (40, 50))
  got = run("resize((50, 40), antialias=False)", image=x)["image"]
  np.testing.assert_array_less(got - exact, 1 / 512 + 1e-4)
  np.testing.assert_array_less(exact - got, 1)
  flat = run("resize(50, antialias=False)", image=np.full_like(x, 77))["image"]
  assert (flat == 77).all()


@pytest.mark.parametrize("near", [0, -1, "big", 2.5, (224, 224)])
def test_near_must_be_a_side(near):
  with pytest.raises(UserError, match=r"near must be a side .* near=224; got"):
    run(f"decode(near={near!r})", image=fakes.png((1, 2, 3)))


@pytest.mark.parametrize("name", ["lower", "strip_punctuation"])
def test_operations_on_a_text_name_what_they_got_instead(name):
  match = f"{name} cannot be applied to a list: got .'A', 'B'.. Pick one"
  with pytest.raises(UserError, match=match):
    run(name, text=["A", "B"])
  with pytest.raises(UserError, match=f"{name} .* an int: got 3. Put copy"):
    run(name, text=3)
