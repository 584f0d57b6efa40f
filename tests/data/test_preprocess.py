"""Preprocessing strings: what they may say, and what the operations do."""

import io
import pickle
import subprocess
import sys

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import images
from siglip_jax.data import ops
from siglip_jax.data import tokenizer
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import meaning
from siglip_jax.data.preprocess import parse
from siglip_jax.errors import UserError


def run(spec, seed=0, **record):
  return Preprocess(spec)(record, np.random.default_rng(seed))


def ramp(h, w, channels=3):
  pixels = np.arange(h * w * channels) % 251
  return pixels.astype(np.uint8).reshape(h, w, channels)


@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').mkdir('{path}')",
        "decode|resize(__import__('os').mkdir('{path}'))",
        "resize(size=open('{path}', 'w'))",
        "[open('{path}', 'w')]",
        "(lambda: open('{path}', 'w'))()",
        "resize(*[open('{path}', 'w')])",
        'resize(f\'{{open("{path}", "w")}}\')',
    ],
)
def test_nothing_in_a_string_is_executed(tmp_path, spec):
  path = tmp_path / "made"
  with pytest.raises(UserError):
    Preprocess(spec.format(path=path))
  assert not path.exists()


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "|",
        "a|",
        "a b",
        "decode; lower",
        "x = 1",
        "a.b()",
        "1|decode",
        "resize(**{})",
        "resize({[]: 1})",
        "resize(1, size=",
        "a(b=1, b=2)",
        "resize(" + "(" * 300,
        "resize(" + "-" * 100_000 + "1)",
        "decode|" * 20_000 + "decode",
    ],
)
def test_what_is_no_list_of_operations_says_what_is(spec):
  with pytest.raises(UserError, match="literal arguments") as e:
    parse(spec)
  assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    "spec, match",
    [
        ("decode|flip_rl", "'flip_rl'; did you mean flip_lr"),
        ("decode|qqq", "'qqq'; known: .*value_range"),
        ("__import__('os')", "Unknown preprocessing operation '__import__'"),
        (
            "resize",
            r"expected resize\(size, method='bilinear', \*, antialias=True\)",
        ),
        ("resize(1, 2, 3)", r"expected resize\(size"),
        ("flip_lr(p=1)", r"expected flip_lr\(\)"),
        ("value_range(1)", r"expected value_range\(low, high\)"),
        ("value_range('a', 1)", "two numbers, the lower first; got 'a', 1"),
        ("tokenize(max_len=3)", r"expected tokenize\(max_len, model"),
        ("value_range(0,1)|resize(3)", "last operation on images"),
        ("value_range(0,1)|value_range(0,1)", "got value_range after it"),
    ],
)
def test_bad_operations_are_named(spec, match):
  with pytest.raises(UserError, match=match):
    Preprocess(spec)


@pytest.mark.parametrize(
    "spec, match",
    [
        ("resize('big')", "resize cannot be applied"),
        ("resize(4, method='cubic')", "resize cannot be applied.*'cubic'"),
        ("choice('names/xx')", r"choice .*'names/xx'.*image \(ndarray\)"),
        ("decode", "decode cannot be applied"),
        ("central_crop(9)", "Put resize_small.9. before"),
        ("random_crop(9)", "Put resize_small.9. before"),
    ],
)
def test_what_cannot_be_applied_is_named_with_the_record(spec, match):
  with pytest.raises(UserError, match=match):
    run(spec, image=ramp(8, 8), text="x")


def test_a_bad_image_stays_an_image_error():
  with pytest.raises(images.ImageError):
    run("decode", image=b"x")


def test_the_range_is_for_the_device_and_texts_may_follow_it():
  pp = Preprocess('decode|value_range(0, 2.5)|copy("text","t")|lower|keep("t")')
  record = {"image": fakes.png((9, 8, 7)), "text": "A"}
  assert pp(record, np.random.default_rng(0)) == {"t": "A"}
  assert pp.value_range == (0.0, 2.5)
  assert record["text"] == "A" and isinstance(record["image"], bytes)
  assert Preprocess("decode").value_range is None
  assert Preprocess("decode").tokenizer is None


def test_texts_are_lowered_stripped_and_tokenized(tmp_path):
  model = tmp_path / "t.model"
  tokenizer.train(["a red cat"], model, vocab_size=300)
  spec = f'lower|strip_punctuation|tokenize(max_len=8, model="{model}")'
  pp = Preprocess(spec)
  expected = tokenizer.Tokenizer(model).encode("a red cat", max_len=8)
  got = pp({"text": "A (red) cat!"}, np.random.default_rng(0))["text"]
  np.testing.assert_array_equal(got, expected)
  assert pp.tokenizer.digest == tokenizer.Tokenizer(model).digest
  moved = Preprocess(spec.replace("t.model", "gone"), tokenizer_path=model)
  assert moved.tokenizer.digest == pp.tokenizer.digest
  copied = pickle.loads(pickle.dumps(pp))  # as for a worker process
  got = copied({"text": "a red cat"}, np.random.default_rng(0))["text"]
  np.testing.assert_array_equal(got, expected)
  with pytest.raises(UserError, match="There is no tokenizer .*gone"):
    Preprocess(spec.replace("t.model", "gone"))
  for options, match in (("max_len=0", "positive"), ("8, eos='x'", "sticky")):
    with pytest.raises(UserError, match=match):
      Preprocess(f'tokenize({options}, model="{model}")')


def test_bars_inside_quotes_separate_nothing():
  assert parse('a|b(1, c="x|y")') == [("a", [], {}), ("b", [1], {"c": "x|y"})]


def test_images_stay_bytes():
  got = run("decode|resize(4)|value_range(-1,1)", image=fakes.png((9, 8, 7)))
  assert got["image"].shape == (4, 4, 3) and got["image"].dtype == np.uint8
  np.testing.assert_array_equal(got["image"][0, 0], (9, 8, 7))


def test_resizing():
  assert run("resize(5)", image=ramp(8, 12))["image"].shape == (5, 5, 3)
  assert run("resize((5, 6))", image=ramp(8, 12))["image"].shape == (5, 6, 3)
  assert run("resize_small(4)", image=ramp(8, 12))["image"].shape == (4, 6, 3)
  checks = np.indices((8, 8)).sum(0) % 2 * 255
  small = run(
      "resize(2)", image=np.repeat(checks[..., None], 3, 2).astype(np.uint8)
  )["image"]
  assert np.all(abs(small.astype(int) - 127) < 20)  # antialiased


def test_crops_are_parts_of_the_image():
  x = ramp(6, 8)
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
  x = ramp(2, 3)
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
  grey = run("grayscale(p=1)", image=ramp(2, 2))["image"]
  assert np.ptp(grey.astype(int), axis=-1).max() == 0
  np.testing.assert_array_equal(
      run("grayscale(p=0)", image=ramp(2, 2))["image"], ramp(2, 2)
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
      run(spec, image=ramp(4, 4, 4))


def test_an_operation_is_random_if_it_takes_a_generator(monkeypatch):
  def noise(record, rng, p=0.5):
    return record | {"image": rng.random(3) * p}

  def plain(record, p):
    return record | {"image": record["image"] + p}

  monkeypatch.setitem(ops.OPS, "noise", noise)
  monkeypatch.setitem(ops.OPS, "plain", plain)
  pp = Preprocess("plain(1)|noise(p=1)|plain(2)")
  begun = pp.begin({"image": 0})
  assert begun["image"] == 1  # up to the random one, the same every time
  one, two = (
      pp.finish(begun, np.random.default_rng(s))["image"] for s in (1, 2)
  )
  assert (one != two).all() and (one >= 2).all()
  with pytest.raises(UserError, match=r"expected plain\(p\)"):
    Preprocess("plain()")


def test_beginning_and_finishing_are_the_whole():
  pp = Preprocess("decode|resize(4)|affine()|color_jitter(0.5)|keep('image')")
  record = {"image": fakes.png((9, 8, 7), 8), "text": "a"}
  begun = pp.begin(record)
  assert begun["image"].shape == (4, 4, 3) and begun["text"] == "a"
  for seed in range(3):
    rng = np.random.default_rng(seed)
    np.testing.assert_array_equal(
        pp.finish(begun, rng)["image"],
        pp(record, np.random.default_rng(seed))["image"],
    )
  assert begun.keys() == {"image", "text"}
  assert Preprocess("decode").begin(record)["image"].shape == (8, 8, 3)
  assert Preprocess("choice('text')|decode").begin(record) == record


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
      "keep": ("text",),
  }.get(name, ())
  arguments = arguments if isinstance(arguments, tuple) else (arguments,)
  spec = f"{name}({', '.join(map(repr, arguments))})"
  x = ramp(8, 8)
  first = run(spec, 5, image=x, text="A, b")
  again = run(spec, 5, image=x, text="A, b")
  assert first.keys() == again.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], again[key])
  np.testing.assert_array_equal(x, ramp(8, 8))


def test_preprocessing_needs_neither_jax_nor_tensorflow():
  code = (
      "import sys; from siglip_jax.data import preprocess, sources;"
      "print(sorted({'jax', 'tensorflow', 'torch'} & set(sys.modules)))"
  )
  done = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


def test_strings_that_do_the_same_mean_the_same():
  assert meaning("resize(8)") == meaning("resize( 8, method='bilinear')")
  assert meaning("resize(8)") != meaning("resize(8, method='bicubic')")
  one, other = (f"tokenize(8, model='{m}')" for m in ("a", "b/c"))
  assert meaning(one) == meaning(other)
  assert meaning(one) != meaning(one.replace("8", "9"))
