"""Fused attention kernels that work on one head a step.

For heads that lie across registers of 128 lanes, in rows too long to be held in
VMEM. A step reads the two registers its head may lie in. It writes those lanes
of the first that are its own, and leaves the second one's in `carry` for the
next head, which starts there. So steps follow each other along a row.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import math

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array

from siglip_jax.models.attention import by_rows as kernels

LANES = kernels.LANES


def first_tile(head: Array, head_dim: int) -> Array:
  """Number of the register in which a head begins."""
  return jax.lax.div(head * head_dim, LANES)


def last_tile(head: Array, head_dim: int) -> Array:
  """Number of the register in which it ends, the same one or the next."""
  return jax.lax.div((head + 1) * head_dim - 1, LANES)


def forward(*refs, head_dim: int):
  """Refs are (1, L, 128): first and last register each of q, k, v; then out.

  Last comes its carry, (L, 128).
  """
  *inputs, out_ref, carry = refs

  def head(registers: int, own: Callable[[Array], Array]):
    q, k, v = _read(inputs, registers)
    for rows in kernels.chunks(q.shape[0]):
      out = kernels.attend(own(q[rows]), k, v)
      _write(out_ref, carry, rows, out, own)

  _by_place([(out_ref, carry)], head_dim, head)


def backward(*refs, head_dim: int):
  """As `forward`, of q, k, v and d_out; then dq, dk, dv and their carries."""
  inputs, outputs = refs[:8], list(zip(refs[8:11], refs[11:], strict=True))
  ln2 = math.log(2)  # queries came in base-2 units

  def head(registers: int, own: Callable[[Array], Array]):
    q, k, v, do = _read(inputs, registers)
    (dq_ref, dq_carry), *keys_and_values = outputs
    dk, dv = [], []
    for rows in kernels.chunks(q.shape[0]):
      found = kernels.gradients(own(q[rows]), k, v, own(do[rows]))
      _write(dq_ref, dq_carry, rows, found[0] * ln2, own)
      dk.append(found[1])
      dv.append(found[2])
    whole = slice(0, q.shape[0])
    for refs, parts, scale in zip(
        keys_and_values, (dk, dv), (ln2, 1.0), strict=True
    ):
      x = functools.reduce(jnp.add, parts) * scale
      _write(*refs, whole, x, own)

  _by_place(outputs, head_dim, head)


def _by_place(outputs, head_dim: int, head: Callable) -> None:
  """Runs `head` for the one or two registers that this step's head lies in.

  Args:
    outputs: pairs of an output and its carry.
    head_dim: width of a head.
    head: takes how many registers there are, and what puts zeros, or another
      array's values, on lanes of other heads.
  """
  start = jax.lax.rem(pl.program_id(1) * head_dim, LANES)
  stop = start + head_dim

  # The first head to begin in a register finds there the end of the one before.
  @pl.when(start < head_dim)
  def _():
    for out, carry in outputs:
      out[0] = carry[...]

  def own(x: Array, other: Array | None = None) -> Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    mask = (lane >= start) & (lane < stop)
    return jnp.where(mask, x, jnp.zeros_like(x) if other is None else other)

  pl.when(stop <= LANES)(lambda: head(1, own))
  pl.when(stop > LANES)(lambda: head(2, own))


def _read(refs: Sequence, registers: int) -> list[Array]:
  """Arrays of which each has two refs, for its first and last register."""
  pairs = zip(refs[::2], refs[1::2], strict=True)
  if registers == 1:
    return [first[0] for first, _ in pairs]
  return [jnp.concatenate([first[0], last[0]], axis=1) for first, last in pairs]


def _write(ref, carry, rows: slice, x: Array, own: Callable) -> None:
  """This head's lanes of x, the second register's to `carry`."""
  x = x.astype(ref.dtype)
  ref[0, rows] = own(x[:, :LANES], ref[0, rows])
  if x.shape[1] > LANES:
    carry[rows] = x[:, LANES:]
