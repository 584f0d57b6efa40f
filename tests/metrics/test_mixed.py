"""The shares and epochs of a mixture's sources, from the order alone."""

from typing import Any

import pytest

from siglip_jax import metrics
from siglip_jax.data.mixture import Mixture
from siglip_jax.data.mixture import Part


class Numbers:
  """A source of so many numbers, read one by one."""

  def __init__(self, count: int):
    self._count = count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"number": index}

  def key(self, index: int) -> str:
    return str(index)


SMALL, LARGE = Numbers(10), Numbers(1000)
MIXTURE = Mixture([Part("small", 0.2, SMALL), Part("large", 0.8, LARGE)])


@pytest.mark.parametrize("order", [None, "global"])
def test_metrics_agree_with_what_was_read(order):
  reading = metrics.reading(MIXTURE, seed=3, batch_size=8, order=order)
  mixed = MIXTURE.mixed(seed=3, batch_size=8, order=order)
  parts = [MIXTURE.part_of(mixed.index(i)) for i in range(400)]
  for examples in (8, 104, 400):
    small = parts[:examples].count(0)
    assert reading(examples) == {
        "data/share/small": small / examples,
        "data/epochs/small": small / 10,
        "data/share/large": 1 - small / examples,
        "data/epochs/large": (examples - small) / 1000,
    }
  assert reading(400)["data/epochs/small"] == pytest.approx(8, abs=0.2)
  assert set(reading(0).values()) == {0.0}


def test_a_source_that_is_not_a_mixture_has_none():
  assert not metrics.reading(LARGE, seed=0, batch_size=8)(80)
