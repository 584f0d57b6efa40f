"""Hashes of images: equal for equal files, near for images that look alike."""

import io

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data.tables import hashes
from siglip_jax.errors import UserError


def scene(seed, side=96):
  """A photo-like image: noise whose power falls with its frequency."""
  noise = np.random.default_rng(seed).normal(size=(side, side, 3))
  y, x = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]
  slope = 1 / np.maximum(np.hypot(y, x), 1 / side)
  pixels = np.fft.ifft2(
      np.fft.fft2(noise, axes=(0, 1)) * slope[..., None], axes=(0, 1)
  ).real
  pixels = 255 * (pixels - pixels.min()) / np.ptp(pixels)
  return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, **options):
  out = io.BytesIO()
  image.save(out, **options)
  return out.getvalue()


def distance(a, b):
  return (hashes.perceptual(a) ^ hashes.perceptual(b)).bit_count()


def test_an_image_that_was_scaled_and_compressed_stays_near():
  scenes = [scene(seed) for seed in range(6)]
  originals = [encoded(s, format="png") for s in scenes]
  for original, image in zip(originals, scenes, strict=True):
    small = image.resize((64, 64))
    assert distance(original, encoded(small, format="jpeg", quality=60)) <= 4
    assert distance(original, encoded(image, format="webp", quality=50)) <= 4
  others = [distance(a, b) for a in originals for b in originals if a != b]
  assert min(others) > 10


def test_all_images_of_a_source_are_hashed_but_those_that_are_damaged(
    monkeypatch,
):
  monkeypatch.setattr(hashes, "_CHUNK", 2)
  images = [encoded(scene(s), format="png") for s in (0, 1, 0)]
  records = [{"image": image} for image in (*images, b"no image")]
  source = fakes.ListSource(records)
  values, readable = hashes.of_source(source, "phash")
  assert readable.tolist() == [True, True, True, False]
  assert values[0] == values[2] != values[1] and values.dtype == np.uint64
  values, readable = hashes.of_source(source, "sha256")
  assert readable.all() and len(set(values.tolist())) == 3


def test_embeddings_have_no_hash():
  source = fakes.ListSource([{"image": np.zeros((1, 4))}])
  with pytest.raises(UserError, match="record 0 has none. .*--by=embeddings"):
    hashes.of_source(source, "phash")
