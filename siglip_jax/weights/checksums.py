"""Checksums of arrays that are the same on every mesh.

Orbax does not store checksums of the values, so it reads a flipped bit without
an error. A checksum here is the sum, modulo 2^32, of each element's bits times
an odd number that depends on the element's index. The order of summation does
not change it, and a single flipped bit always does.
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

_SPREAD = 0x9E3779B1  # odd; gives neighbours distant weights


def of_arrays(arrays: Any) -> dict[str, int]:
  """Returns path -> checksum of a tree's arrays, in one pass on the devices."""
  flat, _ = jax.tree_util.tree_flatten_with_path(arrays)
  if not flat:
    return {}
  sums = jax.device_get(_sums([leaf for _, leaf in flat]))
  names = [jax.tree_util.keystr(path) for path, _ in flat]
  return {n: int(s) for n, s in zip(names, np.asarray(sums), strict=True)}


def of_json(value: Mapping) -> int:
  """Returns the checksum of a JSON object; the order of its keys is ignored."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _sums(leaves: list[Array]) -> UInt32[Array, " N"]:
  return jnp.stack([_sum(x) for x in leaves])


def _sum(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
  # One iota per axis: each device would hold all of a reshaped one.
  index = jnp.zeros(x.shape, jnp.uint32)
  for axis in range(x.ndim):
    stride = np.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
    index += stride * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  weight = 2 * (index * np.uint32(_SPREAD)) + 1
  return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)
