"""The ring: every device's images meet every text, a block at a time.

Each device keeps its images. Blocks of texts travel from device to device,
each with a payload: what the devices it has visited add up for it, such as its
gradient. After as many hops as there are devices both are home again. What is
sent is in flight while a block is computed: a text leaves when its block
begins, a payload while the next block is computed.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Pairs scored at a time unless the caller says otherwise: at two bytes a pair
# 256 MiB, while blocks below 2048 texts cost the matrix unit time
# (`benchmarks/loss.py --topology=v4:2x2x1 --blocks=1024,2048` shows both).
_PAIRS = 2**27
_MIN_BLOCK = 2048

Visit = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def num_devices(mesh: jax.sharding.Mesh, axes: Sequence[str]) -> int:
  """How many devices the ring has."""
  return math.prod(mesh.shape[a] for a in axes)


def check(
    rows: int,
    mesh: jax.sharding.Mesh,
    axes: Sequence[str],
    block: int | None = None,
) -> None:
  """Raises ValueError unless the batch divides over the ring into blocks."""
  if block is not None and block < 1:
    raise ValueError(f"block must be a positive number of texts; got {block}.")
  n = num_devices(mesh, axes)
  if rows % n:
    raise ValueError(
        f"The batch must divide over the mesh: expected a multiple of {n} (axes"
        f" {tuple(axes)}), got {rows}. Change batch_size or the mesh."
    )


def rotate(
    visit: Visit,
    local: Any,
    texts: Any,
    payload: Any,
    *,
    axes: Sequence[str],
    devices: int,
    block: int | None = None,
) -> tuple[Any, Any]:
  """Shows every text block of the ring to this device; call under shard_map.

  Args:
    visit: (local, texts, payload, valid) of one block to (local, payload);
      `valid` marks the rows that are texts and not padding, or is None where
      there is no padding.
    local: what stays and is updated by each visit, such as sums.
    texts: arrays of the local texts, first axis M; they only travel.
    payload: arrays of first axis M that each visit may change; at the start
      all rows on all devices are equal.
    axes: mesh axes of the ring, major first.
    devices: how many devices it has.
    block: texts at a time; need not divide M.

  Returns:
    The last `local`, and the payload of the device's own texts.
  """
  rows = jax.tree.leaves(texts)[0].shape[0]
  if block is None:
    block = max(_PAIRS // rows, _MIN_BLOCK)
  count = -(-rows // block)
  size = -(-rows // count)
  neighbour = [(i, (i + 1) % devices) for i in range(devices)]

  def send(x):
    return jax.tree.map(lambda a: jax.lax.ppermute(a, axes, neighbour), x)

  def cut(x):
    pad = ((0, count * size - rows),)
    x = jnp.pad(x, pad + ((0, 0),) * (x.ndim - 1))
    return x.reshape(count, size, *x.shape[1:])

  def step(carry, slots):
    local, texts, payload, sent = carry
    this, previous = slots
    here = _get(texts, this)
    following, arrived = send(here), send(sent)
    valid = None
    if count * size > rows:
      valid = this * size + jnp.arange(size) < rows
    # A lone block needs its payload at once; others have a visit's time.
    if count == 1:
      payload = _put(payload, arrived, previous)
    local, sent = visit(local, here, _get(payload, this), valid)
    if count > 1:
      payload = _put(payload, arrived, previous)
    return (local, _put(texts, following, this), payload, sent), None

  texts, payload = jax.tree.map(cut, (texts, payload))
  slots = jnp.tile(jnp.arange(count), devices)
  (local, _, payload, sent), _ = jax.lax.scan(
      step,
      (local, texts, payload, _get(payload, 0)),
      (slots, (slots - 1) % count),
  )
  payload = _put(payload, send(sent), count - 1)
  joined = jax.tree.map(
      lambda a: a.reshape(count * size, *a.shape[2:])[:rows], payload
  )
  return local, joined


def dot(spec: str, x: Array, y: Array, precision=None) -> Array:
  """Returns an einsum accumulated in float32 or wider."""
  dtype = jnp.promote_types(jnp.float32, x.dtype)
  return jnp.einsum(
      spec, x, y, preferred_element_type=dtype, precision=precision
  )


def varying(x: Any, axes: Sequence[str]) -> Any:
  """Marks constants as different on each device, as loop carries must be."""
  return jax.tree.map(
      lambda a: jax.lax.pcast(jnp.asarray(a), tuple(axes), to="varying"), x
  )


def _get(blocks, slot):
  return jax.tree.map(
      lambda a: jax.lax.dynamic_index_in_dim(a, slot, keepdims=False), blocks
  )


def _put(blocks, new, slot):
  return jax.tree.map(
      lambda a, x: jax.lax.dynamic_update_index_in_dim(a, x, slot, 0),
      blocks,
      new,
  )
