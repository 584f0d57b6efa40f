"""Weights of two small towers, in memory and in a file."""

import pytest
import small_towers

from siglip_jax.weights import big_vision


@pytest.fixture(scope="session")
def params():
  return small_towers.params()


@pytest.fixture(scope="session")
def npz(params, tmp_path_factory):
  path = tmp_path_factory.mktemp("npz") / "model.npz"
  big_vision.write(path, params)
  return path
