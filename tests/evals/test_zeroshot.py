import dataclasses

from fakes import ListSource
from fakes import PerfectEncoder
import numpy as np
import pytest

from siglip_jax.errors import UserError
from siglip_jax.evals import zeroshot

NAMES = [f"name {i:02d}" for i in range(20)]


class ConstantEncoder(PerfectEncoder):
  """Everything is embedded as `value`: nothing but ties."""

  def __init__(self, value):
    self._value = value

  def encode_texts(self, texts):
    return np.full((len(texts), 4), self._value, np.float32)


def make(n=50, **kwargs):
  labels = [i * 7 % len(NAMES) for i in range(n)]
  return zeroshot.Zeroshot(
      dataset="fake",
      source=ListSource([{"text": NAMES[i]} for i in labels]),
      class_names=NAMES,
      labels=labels,
      **kwargs,
  )


def test_perfect_encoder_is_always_right():
  result = make(gallery=5).run(PerfectEncoder(NAMES))
  top1, top5 = result.scores
  assert (top1.name, top5.name) == ("zeroshot/fake/top1", "zeroshot/fake/top5")
  assert top1.value == top5.value == 1.0
  assert (top1.chance, top5.chance) == pytest.approx((0.05, 0.25))
  assert [e.index for e in result.gallery] == [0, 12, 24, 36, 49]
  assert all(e.right for e in result.gallery)
  name, probability = result.gallery[0].guesses[0]
  assert name == result.gallery[0].truth
  assert probability == pytest.approx(1 / (1 + np.exp(-5.0)))


def test_constant_and_diverged_encoders_get_nothing():
  for value in (0.5, np.nan):
    result = make().run(ConstantEncoder(value))
    assert [s.value for s in result.scores] == [0.0, 0.0]
    assert not any(e.right for e in result.gallery)


def test_chunks_do_not_change_the_result(monkeypatch):
  whole = make().run(PerfectEncoder(NAMES))
  monkeypatch.setattr(zeroshot, "_ROWS", 7)
  assert make().run(PerfectEncoder(NAMES)) == whole


def test_low_logits_do_not_overflow():
  encoder = PerfectEncoder(NAMES)
  encoder.bias = -200.0
  assert make().run(encoder).gallery[0].guesses[0][1] < 1e-80


def test_templates_reach_the_encoder():
  seen = []

  class Listener(PerfectEncoder):

    def encode_texts(self, texts):
      seen.extend(texts)
      return super().encode_texts(texts)

  texts = [f"a {n}." for n in NAMES]
  make(templates=("a {}.", "{}")).run(Listener(NAMES + texts))
  assert seen[:2] == ["a name 00.", "name 00"]


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(labels=[0]), "one label an image"),
        (dict(labels=[20] * 50), r"\[0, 20\)"),
        (dict(labels=[-1] * 50), r"\[0, 20\)"),
        (dict(templates=("a photo",)), "where the name goes"),
        (dict(templates=()), "where the name goes"),
    ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(make(), **change)
