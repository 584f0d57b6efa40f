"""The ring: scores every device's images against every text, block by block.

Each device keeps its images. Blocks of texts travel from device to device, each
with a payload: sums that the devices on its way add to, such as the gradient of
its texts. After as many hops as there are devices, both are back on the device
that they started from.

Communication overlaps with computation. A block's texts are sent on when its
computation starts; its payload is sent while the next block is computed.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Default number of pairs scored at a time: 256 MiB at two bytes per pair.
# Blocks below 2048 texts slow the matrix unit down. For both, see
# `benchmarks/loss.py --topology=v4:2x2x1 --blocks=1024,2048`.
_PAIRS = 2**27
_MIN_BLOCK = 2048

Visit = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def num_devices(mesh: jax.sharding.Mesh, axes: Sequence[str]) -> int:
  """Returns the number of devices in the ring."""
  return math.prod(mesh.shape[a] for a in axes)


def check(
    rows: int,
    mesh: jax.sharding.Mesh,
    axes: Sequence[str],
    block: int | None = None,
) -> None:
  """Raises ValueError if `rows` do not divide over the ring, or block < 1."""
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
  """Calls `visit` with every text block of the ring; use under shard_map.

  Args:
    visit: maps (local, texts, payload, valid) of one block to (local, payload).
      `valid` is a mask of the rows that are not padding, or None if there is no
      padding.
    local: values that stay on this device and that each visit updates, such as
      sums.
    texts: arrays of the local texts, first axis M; visits do not change them.
    payload: arrays with first axis M that travel with the texts and that visits
      may change. Initially all rows on all devices must be equal.
    axes: mesh axes of the ring, major first.
    devices: number of devices in the ring.
    block: number of texts per visit; need not divide M.

  Returns:
    The final `local`, and the payload of the device's own texts.
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
    slot, previous = slots
    block_texts = _get(texts, slot)
    next_texts, arrived = send(block_texts), send(sent)
    valid = None
    if count * size > rows:
      valid = slot * size + jnp.arange(size) < rows
    # `arrived` is the payload of the previous slot. With one block per device
    # this visit needs it; otherwise it may arrive during this visit.
    if count == 1:
      payload = _put(payload, arrived, previous)
    local, sent = visit(local, block_texts, _get(payload, slot), valid)
    if count > 1:
      payload = _put(payload, arrived, previous)
    return (local, _put(texts, next_texts, slot), payload, sent), None

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
  """Marks constants as varying over devices, which loop carries require."""
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
