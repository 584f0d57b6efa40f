"""What is kept, and that it never exceeds its bound."""

import pickle

import numpy as np

from siglip_jax.data.cache import Cache


def test_records_come_back_as_they_were():
  cache, record = Cache(100), {"image": np.zeros(50, np.uint8)}
  assert cache.get(3) is None
  cache.put(3, record)
  assert cache.get(3) is record


def test_what_does_not_fit_is_not_kept():
  cache = Cache(100)
  for i in range(5):
    cache.put(i, {"image": np.zeros(45, np.uint8)})
  assert [cache.get(i) is not None for i in range(5)] == [True] * 2 + [
      False
  ] * 3
  cache = Cache(0)
  cache.put(0, {"text": "a"})
  assert cache.get(0) is None


def test_a_record_counts_once():
  cache = Cache(100)
  for i in (0, 0, 0, 1):
    cache.put(i, {"image": np.zeros(45, np.uint8)})
  assert cache.get(1) is not None


def test_another_process_gets_the_room_and_no_records():
  cache = Cache(100)
  cache.put(0, {"image": np.zeros(90, np.uint8)})
  cache = pickle.loads(pickle.dumps(cache))
  assert cache.get(0) is None
  cache.put(1, {"image": np.zeros(90, np.uint8)})
  assert cache.get(1) is not None
