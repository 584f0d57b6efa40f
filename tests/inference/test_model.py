"""Every kind of image and text, and what is refused."""

import fakes
import jax
import numpy as np
from PIL import Image
import pytest

import siglip_jax
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError


@pytest.fixture(scope="module")
def model(trained):
  return siglip_jax.load(trained)


@pytest.fixture(scope="module")
def red(tmp_path_factory):
  path = tmp_path_factory.mktemp("images") / "red.png"
  path.write_bytes(fakes.png((220, 40, 40)))
  return path


def test_an_image_is_the_same_in_every_form(model, red):
  pixels = np.full((16, 16, 3), (220, 40, 40), np.uint8)
  opened = Image.open(red)
  cmyk = Image.open(red).convert("CMYK")  # which no PNG can hold
  z = model.encode_image([red, str(red), opened, pixels, opened, cmyk])
  assert z.shape == (6, 32)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(z[1:], z[:1].repeat(5, 0), atol=1e-6)
  ready = pixels[None].astype(np.float32) / 127.5 - 1
  np.testing.assert_allclose(model.encode_image(ready), z[:1], atol=1e-5)


def test_a_turned_photograph_is_upright_in_every_form(model, tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by a quarter
  path = tmp_path / "turned.png"
  Image.fromarray(pixels).save(path, exif=exif)
  z = model.encode_image([path, Image.open(path), np.rot90(pixels, -1)])
  np.testing.assert_allclose(z[1:], z[:1].repeat(2, 0), atol=1e-6)
  assert np.abs(z - model.encode_image([pixels])).max() > 1e-3


def test_texts_are_strings_or_ids(model):
  texts = ["A Red image", "blue"]
  z = model.encode_text(texts)
  text = Preprocess(model.spec["text"])
  rng = np.random.default_rng(0)
  ids = np.stack([text({"text": t}, rng)["text"] for t in texts])
  np.testing.assert_allclose(model.encode_text(ids), z, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)


def test_each_pair_is_its_own_sigmoid(model, red):
  labels = ["red", "blue", "green"]
  got = model.classify([red], labels)
  cosine = model.encode_image([red]) @ model.encode_text(labels).T
  t, b = (jax.device_get(model.params[k]) for k in "tb")
  np.testing.assert_allclose(
      got, 1 / (1 + np.exp(-(np.exp(t) * cosine + b))), rtol=1e-5
  )
  np.testing.assert_allclose(model.similarity([red], labels), got, rtol=1e-6)


def test_a_class_is_the_mean_of_its_prompts(model, red):
  labels, templates = ["red", "blue"], ["a {} thing", "{}!"]
  got = model.classify([red], labels, templates=templates)
  z = model.encode_text([t.format(n) for n in labels for t in templates])
  z = z.reshape(2, 2, -1).mean(axis=1)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  expected = model.probabilities(model.encode_image([red]), z)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  plain = model.classify([red], labels)
  assert np.abs(got - plain).max() > 1e-4


def test_a_temperature_over_any_clamp_is_kept(trained):
  model = siglip_jax.load(trained)
  model.params["t"] = model.params["t"] * 0 + np.float32(np.log(150.0))
  model.params["b"] = model.params["b"] * 0 - 10
  z = np.eye(2, dtype=np.float32)
  near = np.array([[0.1, np.sqrt(0.99)]], np.float32)
  got = model.probabilities(z, near)[:, 0]
  logits = np.array([150 * 0.1 - 10, 150 * np.sqrt(0.99) - 10])
  np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), rtol=1e-4)
  # Far below what float32 can raise e to: no warning, and no probability.
  assert model.probabilities(z[:1], -z[:1])[0, 0] == 0


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda m: m.encode_image([]), "at least one image"),
        (lambda m: m.encode_image(["gone.png"]), "no image gone.png"),
        (
            lambda m: m.encode_image(["tests"]),
            r"tests is a folder, .* which a shell lists for tests/\*.jpg.",
        ),
        (
            lambda m: m.encode_image([np.zeros((4, 4))]),
            "or a uint8 array of shape",
        ),
        (
            lambda m: m.encode_image(np.zeros((1, 9, 9, 3), np.float32)),
            r"\(B, 16, 16, 3\); got \(1, 9, 9, 3\)",
        ),
        (lambda m: m.encode_image("a.png"), r"Put it in \[brackets\]"),
        (lambda m: m.encode_image([None]), "a path, a PIL .* got NoneType"),
        (lambda m: m.encode_image([np.zeros((4, 4, 4), "u1")]), "(4, 4, 4)"),
        (lambda m: m.encode_image(np.zeros((0, 16, 16, 3), "f4")), "shape"),
        (lambda m: m.encode_image([Image.new("RGB", (0, 0))]), "has no pixels"),
        (lambda m: m.encode_text(["a", 3]), "takes strings .* got 3"),
        (lambda m: m.encode_text(["\ud83d"]), "strings of Unicode"),
        (lambda m: m.encode_text(np.zeros((2, 9), int)), r"\(B, 8\); got"),
        (lambda m: m.encode_text(np.full((1, 8), 400)), r"in \[0, 400\)"),
        (lambda m: m.encode_text(np.full((1, 8), -1)), r"in \[0, 400\)"),
        (lambda m: m.classify(["a.png"], "red"), "Labels are a list"),
        (lambda m: m.classify(["a.png"], []), "Labels are a list"),
        (
            lambda m: m.classify(["a.png"], ["red"], templates=["a thing"]),
            "Templates of classify .* got .*a thing",
        ),
        (lambda m: m.classify(["a"], ["b"], templates="{}"), "Templates"),
        (lambda m: m.similarity(["gone.png"], ["red"]), "no image gone.png"),
        (lambda m: m.encode_text("red"), "takes a list"),
        (lambda m: m.encode_text([]), "at least one string"),
    ],
)
def test_mistakes_are_named(model, call, match):
  with pytest.raises(UserError, match=match):
    call(model)
