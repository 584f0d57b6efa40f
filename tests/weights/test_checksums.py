"""Checksums: alike on any mesh, and different for every flipped bit."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from siglip_jax.weights import checksums

RNG = np.random.default_rng(0)


def test_a_checksum_is_the_same_on_any_mesh(mesh):
  x = RNG.normal(size=(8, 12, 4)).astype(np.float32)
  specs = (P(), P("data"), P(None, "fsdp"), P("fsdp", None, "data"))
  found = [
      checksums.of_arrays({"x": jax.device_put(x, NamedSharding(mesh, s))})
      for s in specs
  ]
  assert all(f == found[0] for f in found)
  assert found[0].keys() == {"['x']"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_flipped_bit_and_every_exchange_is_seen(dtype):
  x = np.asarray(jnp.asarray(RNG.integers(1, 99, (3, 2))).astype(dtype))
  width = 8 * x.dtype.itemsize
  bits = x.view(f"uint{width}")
  flipped = [x]
  for i in range(x.size):
    for bit in range(0, width, 7):
      other = bits.copy()
      other.flat[i] ^= np.array(1 << bit, other.dtype)
      flipped.append(other.view(x.dtype))
  flipped.append(x[::-1])
  found = checksums.of_arrays([jnp.asarray(f) for f in flipped])
  sums = list(found.values())
  assert sums.count(sums[0]) == 1
  assert checksums.of_arrays([jnp.asarray(x)]) == {"[0]": sums[0]}


def test_scalars_bools_empty_trees_and_objects():
  one = checksums.of_arrays({"a": jnp.int32(1), "b": jnp.array([True, False])})
  two = checksums.of_arrays({"a": jnp.int32(2), "b": jnp.array([False, True])})
  assert one["['a']"] != two["['a']"] and one["['b']"] != two["['b']"]
  assert checksums.of_arrays({}) == {}
  of = checksums.of_json
  assert of({"a": 1, "b": "x"}) == of({"b": "x", "a": 1}) != of({"a": 1})
