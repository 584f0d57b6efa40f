"""Checksums of arrays, the same on any mesh.

Orbax's files carry none over the values: a flipped bit there is read without
an error. Each element's bits, times an odd number that depends on its place,
are summed modulo 2^32, which no order of summation changes; a single flipped
bit always changes the sum.
"""

from collections.abc import Mapping
import json
import math
from typing import Any
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Shaped
from jaxtyping import UInt32
import numpy as np

_SPREAD = 0x9E3779B1  # odd; neighbours get weights far apart


def of_arrays(arrays: Any) -> dict[str, int]:
  """Path to checksum of each array of a tree, in one pass on the devices."""
  flat, _ = jax.tree_util.tree_flatten_with_path(arrays)
  if not flat:
    return {}
  sums = jax.device_get(_sums([leaf for _, leaf in flat]))
  names = [jax.tree_util.keystr(path) for path, _ in flat]
  return {n: int(s) for n, s in zip(names, np.asarray(sums), strict=True)}


def of_json(value: Mapping) -> int:
  """Checksum of a JSON object, whatever the order of its keys."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _sums(leaves: list[Array]) -> UInt32[Array, " N"]:
  return jnp.stack([_sum(x) for x in leaves])


def _sum(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
  # One iota an axis: a reshaped one would be held whole by each device.
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis in range(x.ndim):
    stride = np.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
    place += stride * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  weight = 2 * (place * np.uint32(_SPREAD)) + 1
  return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)
