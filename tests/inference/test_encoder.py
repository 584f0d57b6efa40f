"""Embeddings in batches: exact whatever the batch and the devices."""

import functools

import fakes
import jax
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax.data import pipeline
from siglip_jax.data import tokenizer
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.inference import encoder as encoder_lib
from siglip_jax.models.two_towers import TwoTowers

TEXTS = [f"a {c} thing" for c in fakes.COLORS] * 2 + ["another"]  # 13
MODEL = TwoTowers(
    image=dict(width=32, depth=1, mlp_dim=64, num_heads=2, patch=8),
    text=dict(width=32, depth=1, mlp_dim=64, num_heads=2, vocab_size=400),
    out_dim=(None, 32),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp("predict") / "t.model"
  tokenizer.train(TEXTS, path, vocab_size=400)
  return Preprocess(f'lower|tokenize(max_len=8, model="{path}")')


@pytest.fixture(scope="module")
def source():
  return fakes.ListSource(
      [{"image": fakes.png((20 * i, 255 - 20 * i, 7 * i))} for i in range(13)]
  )


@functools.cache
def params():
  init = jax.jit(lambda key: MODEL.init(key, (16, 16, 3), 8))
  return jax.device_get(init(jax.random.key(0)))


@pytest.fixture(scope="module")
def alone(text, source):
  """Embeddings made one at a time."""
  one = encoder(text, 1, 1)
  return one.encode_source(source), one.encode_texts(TEXTS)


def encoder(text, devices, batch_size, **options):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  return encoder_lib.BatchEncoder(
      model=MODEL,
      params=jax.device_put(params(), sharding.replicated(mesh)),
      mesh=mesh,
      image=Preprocess("decode|resize(16)|value_range(-1,1)"),
      text=text,
      batch_size=batch_size,
      **options,
  )


@pytest.mark.parametrize("devices, batch_size", [(8, 8), (8, 3), (1, 5)])
def test_uneven_last_batches_change_nothing(
    text, source, alone, devices, batch_size
):
  many = encoder(text, devices, batch_size)
  zimg, ztxt = many.encode_source(source), many.encode_texts(TEXTS)
  # To float32 rounding: matmuls of other shapes sum in another order.
  for got, expected in zip((zimg, ztxt), alone, strict=True):
    assert got.shape == (13, 32)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
  assert len(np.unique(zimg.round(4), axis=0)) == 13


def test_batches_are_counted_for_the_progress_bar(text, source):
  seen = []

  def track(batches, count):
    seen.append([count, 0])
    for batch in batches:
      seen[-1][1] += 1
      yield batch

  found = encoder(text, 1, 5, track=track)
  found.encode_source(source)
  found.encode_texts(TEXTS)
  assert seen == [[3, 3], [3, 3]]


def test_batches_of_any_size_compile_a_few_programs(
    text, source, alone, monkeypatch
):
  traced = []
  encode = TwoTowers.encode_image
  monkeypatch.setattr(
      TwoTowers,
      "encode_image",
      lambda model, params, x: (
          traced.append(len(x)),
          encode(model, params, x),
      )[1],
  )
  one = encoder(text, 1, 4)
  rng = np.random.default_rng(0)
  images = [one._image(source[i], rng)["image"] for i in range(13)]
  for count in (1, 2, 3, 4, 5, 7, 8, 13):
    z = one.encode_images(images[:count])
    np.testing.assert_allclose(z, alone[0][:count], atol=2e-6)
  assert traced == [1, 2, 4]


def test_batch_sizes_divide_over_the_devices():
  assert encoder_lib.batch_sizes(64, 1) == [1, 2, 4, 8, 16, 32, 64]
  assert encoder_lib.batch_sizes(30, 8) == [8, 16, 32]
  assert encoder_lib.batch_sizes(3, 8) == [8]
  assert encoder_lib.batch_sizes(5, 1) == [1, 2, 3, 5]


def test_part_of_the_devices_is_enough(text, alone):
  """A mesh need not hold all that there are."""
  zimg, ztxt = alone
  some = encoder(text, 3, 6)
  np.testing.assert_allclose(some.encode_texts(TEXTS), ztxt, atol=2e-6)


def test_a_shared_image_is_read_once_with_the_options_of_the_run(
    text, source, alone, monkeypatch
):
  class Twice(fakes.ListSource):

    def image_ids(self):
      return [i // 2 for i in range(26)]

  calls = []
  real = pipeline.eval_batches

  def spy(source, pp, **options):
    calls.append((len(source), options))
    return real(source, pp, **options)

  monkeypatch.setattr(pipeline, "eval_batches", spy)
  loader = {"num_threads": 3, "num_workers": 0, "cache_mb": 9}
  one = encoder(text, 1, 1, loader=loader)
  z = one.encode_source(Twice([source[i // 2] for i in range(26)]))
  np.testing.assert_array_equal(z, np.repeat(alone[0], 2, axis=0))
  ((count, options),) = calls
  assert count == 13 and options["num_threads"] == 3
  assert "cache_mb" not in options
