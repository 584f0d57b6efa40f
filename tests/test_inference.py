"""load(workdir): every kind of picture and text, and what is refused."""

import fakes
import jax
import numpy as np
from PIL import Image
import pytest

import siglip_jax
from siglip_jax.errors import UserError


@pytest.fixture(scope="module")
def model(trained):
  return siglip_jax.load(trained)


@pytest.fixture(scope="module")
def red(tmp_path_factory):
  path = tmp_path_factory.mktemp("pictures") / "red.png"
  path.write_bytes(fakes.png((220, 40, 40)))
  return path


def test_a_picture_is_the_same_in_every_form(model, red):
  pixels = np.full((16, 16, 3), (220, 40, 40), np.uint8)
  z = model.encode_image([red, str(red), Image.open(red), pixels])
  assert z.shape == (4, 32)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(z[1:], z[:1].repeat(3, 0), atol=1e-6)
  ready = pixels[None].astype(np.float32) / 127.5 - 1
  np.testing.assert_allclose(model.encode_image(ready), z[:1], atol=1e-5)


def test_texts_are_strings_or_ids(model):
  texts = ["A Red picture", "blue"]
  z = model.encode_text(texts)
  text = siglip_jax.inference.Preprocess(model.spec["text"])
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


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda m: m.encode_image([]), "at least one picture"),
        (lambda m: m.encode_image(["gone.png"]), "no picture gone.png"),
        (lambda m: m.encode_image([np.zeros((4, 4))]), "must be uint8"),
        (
            lambda m: m.encode_image(np.zeros((1, 9, 9, 3), np.float32)),
            r"\(B, 16, 16, 3\); got \(1, 9, 9, 3\)",
        ),
        (lambda m: m.encode_text("red"), "takes a list"),
        (lambda m: m.encode_text([]), "at least one string"),
    ],
)
def test_mistakes_are_named(model, call, match):
  with pytest.raises(UserError, match=match):
    call(model)
