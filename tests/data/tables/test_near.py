"""Copies among hashes and embeddings, as comparing all with all finds them."""

import time

import numpy as np
import pytest

from siglip_jax.data.tables import near


def all_with_all(hashes, others=None, distance=0):
  own = others is None
  others = hashes if own else others
  bits = np.bitwise_count(hashes[:, None] ^ others[None]) <= distance
  return np.any(np.tril(bits, -1) if own else bits, axis=1)


def clusters(seed, count=300):
  """Hashes of which many are a few bits apart."""
  rng = np.random.default_rng(seed)
  centers = rng.integers(0, 2**64, 40, np.uint64)
  hashes = centers[rng.integers(0, 40, count)]
  for _ in range(4):
    flips = np.uint64(1) << rng.integers(0, 64, count, np.uint64)
    hashes = np.where(rng.random(count) < 0.6, hashes ^ flips, hashes)
  return hashes


@pytest.mark.parametrize("pairs", [1 << 22, 7])
@pytest.mark.parametrize("distance", [0, 1, 4, 10])
def test_hashes_within_a_distance_are_found(distance, pairs, monkeypatch):
  monkeypatch.setattr(near, "_PAIRS", pairs)
  hashes, others = clusters(0), clusters(1)[:50]
  copies = near.alike(hashes, distance)
  assert copies.tolist() == all_with_all(hashes, None, distance).tolist()
  others = np.concatenate([others, hashes[:9]])
  copies = near.alike(hashes, distance, others)
  assert copies.tolist() == all_with_all(hashes, others, distance).tolist()
  assert 0 < copies.sum() < len(hashes)


def test_many_equal_hashes_cost_nothing():
  hashes = np.zeros(300_000, np.uint64)
  begin = time.process_time()
  copies = near.alike(hashes, 4)
  assert not copies[0] and copies[1:].all()
  assert time.process_time() - begin < 2


def test_no_images_have_no_copies():
  none = np.zeros(0, np.uint64)
  assert near.alike(none, 4).shape == near.same(none).shape == (0,)
  assert not near.alike(np.ones(3, np.uint64), 4, none).any()
  assert near.similar(np.zeros((0, 4), np.float32), 0.9).shape == (0,)


def test_equal_files_are_found():
  hashes = np.array([b"a", b"b", b"a", b"c", b"b"], "S16")
  assert near.same(hashes).tolist() == [False, False, True, False, True]
  assert near.same(hashes, hashes[3:4]).tolist() == [False] * 3 + [True, False]


@pytest.mark.parametrize("rows", [4096, 7])
def test_embeddings_with_a_large_cosine_are_found(rows, monkeypatch):
  monkeypatch.setattr(near, "_ROWS", rows)
  rng = np.random.default_rng(0)
  z = rng.normal(size=(60, 8))
  z[1::3] = z[::3] + 0.2 * rng.normal(size=(20, 8))
  z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
  cosines = z @ z.T
  expected = np.any(np.tril(cosines, -1) >= 0.9, axis=1)
  assert near.similar(z, 0.9).tolist() == expected.tolist()
  assert 5 < expected.sum() < 40
  expected = np.any(cosines[:, :9] >= 0.9, axis=1)
  assert near.similar(z, 0.9, z[:9]).tolist() == expected.tolist()
