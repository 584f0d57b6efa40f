"""Batches made ahead: in order, few at a time, errors where they belong."""

import threading

from fake_examples import Numbers
import jax
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax.data import prefetch
from siglip_jax.data.loader.batches import Batches


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_every_item_comes_once_and_in_order(count):
  found = list(prefetch.batches(lambda i: np.array([i, -i]), range(count), 4))
  assert [len(b) for b in found[:-1]] == [4] * ((count - 1) // 4)
  np.testing.assert_array_equal(
      np.concatenate(found), [[i, -i] for i in range(count)]
  )


def test_one_batch_is_made_while_another_is_used_and_no_more():
  made, second = [], threading.Event()

  def load(i):
    made.append(i)
    if len(made) == 8:
      second.set()
    return np.array(i)

  batches = prefetch.batches(load, range(100), 4)
  next(batches)
  assert second.wait(10)  # with nobody asking for it
  assert sorted(made) == list(range(8))
  next(batches)
  batches.close()
  assert len(made) <= 12


def test_what_loading_raises_is_raised_where_batches_are_used():
  def load(i):
    return np.array(1 // (5 - i))

  batches = prefetch.batches(load, range(100), 4)
  assert len(next(batches)) == 4
  with pytest.raises(ZeroDivisionError):
    next(batches)


class Tokens(Numbers):
  """Numbers with ids of texts."""

  def finish(self, begun):
    return [
        {
            "image": one.record["image"],
            "text": np.full(4, one.record["number"], np.int32),
            "replaced": np.int32(-1),
        }
        for one in begun
    ]


@pytest.mark.parametrize("ahead", [1, 2])
def test_batches_on_devices_stay_as_they_are(mesh, ahead):
  """While the loader uses the memory they came from again."""
  examples = Tokens(25, 64, shape=(8, 8, 3))
  spread = sharding.batch_sharding(mesh)
  kept = list(
      prefetch.to_device(Batches(examples, prefetch=1), spread, ahead=ahead)
  )
  assert len(kept) == 25
  for number, batch in enumerate(kept):
    images = jax.device_get(batch["image"])
    rows = np.arange(number * 64, number * 64 + 64)
    np.testing.assert_array_equal(
        images, np.repeat(rows[:, None] % 251, 8 * 8 * 3, axis=1)
    )
    np.testing.assert_array_equal(batch["text"][:, 0], rows)
    assert batch["image"].sharding == spread


def test_the_loader_makes_no_copies_for_a_run(mesh):
  """Whose arrays JAX uses where they lie, or copies to devices."""
  owners = []

  def watched(batches):
    for batch in batches:
      owners.append(batch["image"].flags.owndata)
      yield batch
      del batch

  batches = Batches(Tokens(40, 64, shape=(8, 8, 3)), prefetch=4)
  spread = sharding.batch_sharding(mesh)
  for number, batch in enumerate(prefetch.to_device(watched(batches), spread)):
    assert batch["text"][0, 0] == number * 64
  assert len(owners) == 40 and not any(owners)
