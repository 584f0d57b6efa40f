"""Validation loss: equal to a dense one in float64, and exact at the end."""

import dataclasses
import math

import fakes
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax.errors import UserError
from siglip_jax.evals import loss as loss_lib


@dataclasses.dataclass
class NoisyEncoder:
  """Random unit vectors; images are near their texts."""

  texts: list
  temperature: float = 12.0
  bias: float = -9.0

  def __post_init__(self):
    rng = np.random.default_rng(0)
    self.ztxt = unit(rng.normal(size=(len(self.texts), 16)))
    noise = 0.2 * rng.normal(size=self.ztxt.shape)
    self.zimg = unit(self.ztxt + noise.astype(np.float32))

  def encode_texts(self, texts):
    return self.ztxt[[self.texts.index(text) for text in texts]]

  def encode_source(self, source):
    return self.zimg[: len(source)]


def unit(x):
  x = x.astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def dense(name, zimg, ztxt, temperature, bias):
  """Loss of each example in a batch, in five lines."""
  x = temperature * zimg.astype(float) @ ztxt.astype(float).T
  if name == "softmax":
    both = np.log(np.exp(x).sum(1)), np.log(np.exp(x).sum(0))
    return sum(both) / 2 - np.diagonal(x)
  sign = 2 * np.eye(len(x)) - 1
  return np.log1p(np.exp(-sign * (x + bias))).sum(axis=1)


def make(count, name, batch_size):
  source = fakes.ListSource([{}] * count)
  texts = [f"text {i}" for i in range(count)]
  made = loss_lib.ValidationLoss(
      dataset="d", source=source, texts=texts, loss=name, batch_size=batch_size
  )
  return made, NoisyEncoder(texts)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
@pytest.mark.parametrize("pairs", [1, 60, 2**20])
def test_is_the_dense_loss_of_each_batch(name, pairs, monkeypatch):
  # 23 examples: two batches of 10 and one of 3, in blocks of 1, 6 or 10 rows.
  monkeypatch.setattr(loss_lib, "_PAIRS", pairs)
  made, encoder = make(23, name, 10)
  (score,) = made.run(encoder).scores
  scalars = encoder.temperature, encoder.bias
  each = np.concatenate(
      [
          dense(name, encoder.zimg[b], encoder.ztxt[b], *scalars)
          for b in (slice(0, 10), slice(10, 20), slice(20, 23))
      ]
  )
  assert score.value == pytest.approx(each.mean(), rel=1e-12)
  half = 1.959964 * each.std(ddof=1) / math.sqrt(23)
  assert (score.lo, score.hi) == pytest.approx(
      (each.mean() - half, each.mean() + half), rel=1e-6
  )
  assert (score.name, score.n, score.unit) == ("loss/d", 23, "nats")


def test_is_the_loss_of_training():
  for name in ("sigmoid", "softmax"):
    made, encoder = make(8, name, 0)
    values = encoder.zimg, encoder.ztxt, np.log(encoder.temperature), -9.0
    learned = losses.LOSSES[name]
    args = map(jnp.float32, values[: 2 + len(learned.learns)])
    want = learned.function(*args)
    (score,) = made.run(encoder).scores
    assert score.value == pytest.approx(float(want), rel=1e-5)


def test_chance_is_the_best_loss_without_looking():
  # Batches of 4, 4 and 1. No constant probability is better than 1 / k.
  made, encoder = make(9, "sigmoid", 4)
  p = np.linspace(0.01, 0.99, 9999)
  best = np.min(-np.log(p) - 3 * np.log(1 - p))
  (score,) = made.run(encoder).scores
  assert score.chance == pytest.approx(best * 8 / 9, rel=1e-6)
  made, encoder = make(9, "softmax", 4)
  assert made.run(encoder).scores[0].chance == pytest.approx(
      math.log(4) * 8 / 9
  )
  encoder.temperature = 0.0
  assert made.run(encoder).scores[0].value == pytest.approx(math.log(4) * 8 / 9)


def test_large_logits_do_not_overflow():
  for name in ("sigmoid", "softmax"):
    made, encoder = make(6, name, 3)
    encoder.temperature = 1e5
    assert math.isfinite(made.run(encoder).scores[0].value)


def test_a_diverged_model_has_no_loss():
  for name in ("sigmoid", "softmax"):
    made, encoder = make(6, name, 3)
    encoder.temperature = math.nan
    assert math.isnan(made.run(encoder).scores[0].value)


def test_each_text_is_encoded_once():
  source = fakes.ListSource([{}] * 4)
  made = loss_lib.ValidationLoss(
      dataset="d",
      source=source,
      texts=list("abab"),
      loss="softmax",
      batch_size=2,
  )
  encoder = NoisyEncoder(list("abxx"))
  seen = []
  encode = encoder.encode_texts
  encoder.encode_texts = lambda texts: seen.append(texts) or encode(texts)
  made.run(encoder)
  assert seen == [["a", "b"]]


def section(folder, **changes):
  return (
      dict(
          dataset="d",
          path=str(folder),
          split="all",
          loss="sigmoid",
          batch_size=8,
      )
      | changes
  )


def test_is_made_from_a_section(tmp_path):
  folder = fakes.captioned_folder(tmp_path / "images", 6)
  made = loss_lib.validation_loss(**section(folder))
  assert len(made.source) == 6 and made.texts[1] == "a green image number 1"
  for changes, words in (
      (dict(loss="ring"), "must be one of sigmoid, softmax; got 'ring'"),
      (dict(batch_size=1), "must be 0 .* or at least 2, .*got 1"),
      (dict(text="name"), "'name' .*000.png has image, text"),
  ):
    with pytest.raises(UserError, match=words):
      loss_lib.validation_loss(**section(folder, **changes))


def test_of_a_list_of_captions_the_first_counts(monkeypatch):
  rows = [{"text": ["a", "b"]}, {"text": "c"}, {"text": ("d",)}]
  monkeypatch.setattr(
      loss_lib.kinds, "make", lambda **_: fakes.ListSource(rows)
  )
  assert loss_lib.validation_loss(**section("x")).texts == ["a", "c", "d"]
  for bad in (3, [], [None]):
    rows[1]["text"] = bad
    with pytest.raises(UserError, match="record 1 has"):
      loss_lib.validation_loss(**section("x"))
