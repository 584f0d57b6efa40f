"""Fused attention kernels that compute all heads of a block in VMEM.

`calls` cuts arrays into blocks and runs the kernels. `attend` and `gradients`,
the arithmetic of one head, also serve the kernels of `by_head`.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

LANES = 128
CHUNK = 256  # maximum query rows per attention map


@dataclasses.dataclass(frozen=True)
class _Head:
  """The lanes [start, stop) of one head in a row of `width`.

  A head is read as the whole registers of 128 lanes that it lies in, with the
  lanes of other heads set to zero. The matrix unit pads a head to 128 lanes
  anyway, and for a head that lies across two registers, moving lanes costs more
  than a second tile.
  """

  start: int
  stop: int
  width: int

  @property
  def lanes(self) -> slice:
    """The lanes of the registers that the head lies in."""
    first, last = self.start // LANES, -(-self.stop // LANES)
    return slice(first * LANES, min(last * LANES, self.width))

  @property
  def tiles(self) -> range:
    """The indices of the registers that the head lies in."""
    return range(self.start // LANES, -(-self.stop // LANES))

  def only(self, x: Array) -> Array:
    """Returns x, which has `lanes`, with zeros on the lanes of other heads."""
    mask = self._mask(x.shape, self.lanes.start)
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))

  def merge(self, tiles: dict[int, Array], x: Array) -> None:
    """Writes this head's lanes of x into `tiles` of 128 lanes."""
    for tile, part in self._cut(x):
      mask = self._mask(part.shape, tile * LANES)
      if tile in tiles and mask is not None:
        part = jnp.where(mask, part, tiles[tile])
      tiles[tile] = part

  def add(self, tiles: dict[int, Array], x: Array) -> None:
    """Adds x, with zeros on the lanes of other heads, to `tiles`."""
    for tile, part in self._cut(x):
      tiles[tile] = tiles[tile] + part if tile in tiles else part

  def _cut(self, x):
    for i, tile in enumerate(self.tiles):
      yield tile, x[:, i * LANES : (i + 1) * LANES]

  def _mask(self, shape, first_lane: int) -> Array | None:
    start, stop = self.start - first_lane, self.stop - first_lane
    if start <= 0 and stop >= shape[1]:
      return None
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return (lane >= start) & (lane < stop)


def heads(width: int, head_dim: int) -> list[_Head]:
  """Returns the heads of a row, in order."""
  return [_Head(s, s + head_dim, width) for s in range(0, width, head_dim)]


def chunks(length: int) -> list[slice]:
  """Returns the slices of a sequence's rows, up to `CHUNK` rows each."""
  return [slice(s, min(s + CHUNK, length)) for s in range(0, length, CHUNK)]


def _read(ref, i, pack: int, lanes: slice) -> Array:
  """Reads the rows of the i-th group of `pack` sequences of a block."""
  if pack == 1:
    return ref[i, :, lanes]
  x = ref[pl.ds(i * pack, pack), :, lanes]
  return x.reshape(pack * x.shape[1], x.shape[2])


def _write(
    ref, i, pack: int, rows: Sequence[dict[int, Array]], scale: float = 1.0
) -> None:
  """Writes tiles of 128 lanes; `rows` has one dict per chunk of rows."""
  for tile in rows[0]:
    parts = [(tiles[tile] * scale).astype(ref.dtype) for tiles in rows]
    x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)
    lanes = slice(tile * LANES, tile * LANES + x.shape[1])
    if pack == 1:
      ref[i, :, lanes] = x
    else:
      ref[pl.ds(i * pack, pack), :, lanes] = x.reshape(pack, -1, x.shape[1])


def _weights(k: Array, q: Array, pack: int) -> Float[Array, "K Q"]:
  """Returns one head's softmax over keys; q is in base-2 units."""
  s = _dot(k, q, 1, 1)
  if pack > 1:
    length = jnp.int32(k.shape[0] // pack)
    rows, columns = (
        jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, s.shape, axis), length)
        for axis in (0, 1)
    )
    s = jnp.where(rows == columns, s, -1e30)
  p = jnp.exp2(s - jnp.max(s, axis=0, keepdims=True))
  return p * (1 / jnp.sum(p, axis=0, keepdims=True))


def _dot(a: Array, b: Array, i: int, j: int) -> Array:
  """Contracts axis i of a with axis j of b, accumulating in float32."""
  return jax.lax.dot_general(
      a, b, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32
  )


def attend(
    q: Float[Array, "Q D"],
    k: Float[Array, "K D"],
    v: Float[Array, "K D"],
    pack: int = 1,
) -> Float[Array, "Q D"]:
  """Returns one head's output, in float32.

  Args:
    q: queries in base-2 units, zero on the lanes of other heads.
    k: keys; the lanes of other heads may hold anything.
    v: values; the lanes of other heads may hold anything, and the output's
      lanes of other heads are then meaningless.
    pack: number of sequences in the rows; they do not attend to each other.
  """
  p = _weights(k, q, pack)
  return _dot(p.astype(v.dtype), v, 0, 0)


def gradients(
    q: Float[Array, "Q D"],
    k: Float[Array, "K D"],
    v: Float[Array, "K D"],
    d_out: Float[Array, "Q D"],
    pack: int = 1,
) -> tuple[Float[Array, "Q D"], Float[Array, "K D"], Float[Array, "K D"]]:
  """Returns the float32 gradients of one head's queries, keys and values.

  The gradients of keys and values are zero on the lanes of other heads. The
  gradients of queries and keys still need a factor of log 2.

  Args:
    q: as in `attend`.
    k: as in `attend`.
    v: as in `attend`.
    d_out: gradient of the output, zero on the lanes of other heads.
    pack: as in `attend`.
  """
  p = _weights(k, q, pack)
  dp = _dot(v, d_out, 1, 1)
  ds = p * (dp - jnp.sum(p * dp, axis=0, keepdims=True))
  ds = ds.astype(q.dtype)
  dq, dk = _dot(ds, k, 0, 0), _dot(ds, q, 1, 0)
  return dq, dk, _dot(p.astype(d_out.dtype), d_out, 1, 0)


def forward(q_ref, k_ref, v_ref, out_ref, *, head_dim: int, pack: int):
  """Computes the output of a block.

  Args:
    q_ref: queries, (sequences, L, lanes).
    k_ref: keys, likewise.
    v_ref: values, likewise.
    out_ref: output, likewise.
    head_dim: width of a head.
    pack: number of sequences that share an attention map.
  """

  def sequence(i, _):
    parts = chunks(q_ref.shape[1] * pack)
    out = [{} for _ in parts]
    for head in heads(q_ref.shape[2], head_dim):
      q, k, v = (_read(r, i, pack, head.lanes) for r in (q_ref, k_ref, v_ref))
      for rows, tiles in zip(parts, out, strict=True):
        head.merge(tiles, attend(head.only(q[rows]), k, v, pack))
    _write(out_ref, i, pack, out)
    return 0

  jax.lax.fori_loop(0, q_ref.shape[0] // pack, sequence, 0)


def backward(
    q_ref, k_ref, v_ref, do_ref, dq_ref, dk_ref, dv_ref, *, head_dim, pack
):
  """Computes the gradients of a block's q, k and v; recomputes the map.

  Arguments are as in `forward`, with the output's gradient `do_ref`.
  """
  ln2 = math.log(2)  # q is in base-2 units

  def sequence(i, _):
    parts = chunks(q_ref.shape[1] * pack)
    dq, dk, dv = [{} for _ in parts], {}, {}
    for head in heads(q_ref.shape[2], head_dim):
      q, k, v, do = (
          _read(r, i, pack, head.lanes) for r in (q_ref, k_ref, v_ref, do_ref)
      )
      for rows, tiles in zip(parts, dq, strict=True):
        qh, doh = head.only(q[rows]), head.only(do[rows])
        d_rows, d_keys, d_values = gradients(qh, k, v, doh, pack)
        head.merge(tiles, d_rows)
        head.add(dk, d_keys)
        head.add(dv, d_values)
    _write(dq_ref, i, pack, dq, ln2)
    _write(dk_ref, i, pack, [dk], ln2)
    _write(dv_ref, i, pack, [dv])
    return 0

  jax.lax.fori_loop(0, q_ref.shape[0] // pack, sequence, 0)
