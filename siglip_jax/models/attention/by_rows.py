"""The bodies of the fused attention kernels: what happens to a block in VMEM.

`attention_calls` cuts arrays into blocks and runs them.
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
CHUNK = 256  # query rows a map has at most


@dataclasses.dataclass(frozen=True)
class _Head:
  """The lanes [start, stop) of one head in a row of `width`.

  Heads are read with the whole registers of 128 lanes they lie in, and the
  lanes of others zeroed: the matrix unit pads a head to 128 anyway, and moving
  lanes costs more than a second tile for heads that lie across two registers.
  """

  start: int
  stop: int
  width: int

  @property
  def lanes(self) -> slice:
    """Of the registers it lies in."""
    first, last = self.start // LANES, -(-self.stop // LANES)
    return slice(first * LANES, min(last * LANES, self.width))

  @property
  def tiles(self) -> range:
    """Numbers of those registers."""
    return range(self.start // LANES, -(-self.stop // LANES))

  def only(self, x: Array) -> Array:
    """x, of these lanes, with zeros on those of other heads."""
    mask = self._mask(x.shape, self.lanes.start)
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))

  def merge(self, found: dict[int, Array], x: Array) -> None:
    """Puts this head's lanes of x into tiles of 128 lanes."""
    for tile, part in self._cut(x):
      mask = self._mask(part.shape, tile * LANES)
      if tile in found and mask is not None:
        part = jnp.where(mask, part, found[tile])
      found[tile] = part

  def add(self, found: dict[int, Array], x: Array) -> None:
    """The same for x with zeros on the lanes of other heads."""
    for tile, part in self._cut(x):
      found[tile] = found[tile] + part if tile in found else part

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
  """The heads of a row, in order."""
  return [_Head(s, s + head_dim, width) for s in range(0, width, head_dim)]


def chunks(length: int) -> list[slice]:
  """Rows of a sequence, `CHUNK` at a time."""
  return [slice(s, min(s + CHUNK, length)) for s in range(0, length, CHUNK)]


def _read(ref, i, pack: int, lanes: slice) -> Array:
  """Rows of the i-th `pack` sequences of a block."""
  if pack == 1:
    return ref[i, :, lanes]
  x = ref[pl.ds(i * pack, pack), :, lanes]
  return x.reshape(pack * x.shape[1], x.shape[2])


def _write(
    ref, i, pack: int, found: Sequence[dict[int, Array]], scale: float = 1.0
) -> None:
  """Tiles of 128 lanes, one dict for each chunk of rows."""
  for tile in found[0]:
    parts = [(f[tile] * scale).astype(ref.dtype) for f in found]
    x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)
    lanes = slice(tile * LANES, tile * LANES + x.shape[1])
    if pack == 1:
      ref[i, :, lanes] = x
    else:
      ref[pl.ds(i * pack, pack), :, lanes] = x.reshape(pack, -1, x.shape[1])


def _weights(k: Array, q: Array, pack: int) -> Float[Array, "K Q"]:
  """Softmax over keys of one head's map; q in base-2 units."""
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
  """Contracts axis i of a with axis j of b, in float32."""
  return jax.lax.dot_general(
      a, b, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32
  )


def attend(
    q: Float[Array, "Q D"],
    k: Float[Array, "K D"],
    v: Float[Array, "K D"],
    pack: int = 1,
) -> Float[Array, "Q D"]:
  """One head's output, in float32.

  Args:
    q: in base-2 units, zero on lanes of other heads.
    k: keys; other heads' lanes do not matter.
    v: values, likewise; the output has theirs, too.
    pack: sequences in it, which do not attend to each other.
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
  """Of one head's queries, keys and values, in float32.

  Takes what `attend` does, and `d_out`, zero on lanes of other heads. So are
  those of keys and values then; those of q and k lack a factor of log 2.
  """
  p = _weights(k, q, pack)
  dp = _dot(v, d_out, 1, 1)
  ds = p * (dp - jnp.sum(p * dp, axis=0, keepdims=True))
  ds = ds.astype(q.dtype)
  dq, dk = _dot(ds, k, 0, 0), _dot(ds, q, 1, 0)
  return dq, dk, _dot(p.astype(d_out.dtype), d_out, 1, 0)


def forward(q_ref, k_ref, v_ref, out_ref, *, head_dim: int, pack: int):
  """Refs are blocks (sequences, L, lanes); `pack` sequences share a map."""

  def sequence(i, _):
    parts = chunks(q_ref.shape[1] * pack)
    out = [{} for _ in parts]
    for head in heads(q_ref.shape[2], head_dim):
      q, k, v = (_read(r, i, pack, head.lanes) for r in (q_ref, k_ref, v_ref))
      for rows, found in zip(parts, out, strict=True):
        head.merge(found, attend(head.only(q[rows]), k, v, pack))
    _write(out_ref, i, pack, out)
    return 0

  jax.lax.fori_loop(0, q_ref.shape[0] // pack, sequence, 0)


def backward(
    q_ref, k_ref, v_ref, do_ref, dq_ref, dk_ref, dv_ref, *, head_dim, pack
):
  """As `forward`, making the map again; gradients of all three inputs."""
  ln2 = math.log(2)  # queries came in base-2 units

  def sequence(i, _):
    parts = chunks(q_ref.shape[1] * pack)
    dq, dk, dv = [{} for _ in parts], {}, {}
    for head in heads(q_ref.shape[2], head_dim):
      q, k, v, do = (
          _read(r, i, pack, head.lanes) for r in (q_ref, k_ref, v_ref, do_ref)
      )
      for rows, found in zip(parts, dq, strict=True):
        qh, doh = head.only(q[rows]), head.only(do[rows])
        d_rows, d_keys, d_values = gradients(qh, k, v, doh, pack)
        head.merge(found, d_rows)
        head.add(dk, d_keys)
        head.add(dv, d_values)
    _write(dq_ref, i, pack, dq, ln2)
    _write(dk_ref, i, pack, [dk], ln2)
    _write(dv_ref, i, pack, [dv])
    return 0

  jax.lax.fori_loop(0, q_ref.shape[0] // pack, sequence, 0)
