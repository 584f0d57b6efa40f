"""Fused attention kernels that compute one head per grid step.

They serve heads that cross boundaries of registers of 128 lanes, in rows too
long to hold in VMEM. A step reads the two registers that its head may lie in.
It writes the head's lanes of the first register, and leaves its lanes of the
second register in `carry` for the next head, which starts there. The steps of a
row must therefore run in order.
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
  """Returns the index of the register in which a head starts."""
  return jax.lax.div(head * head_dim, LANES)


def last_tile(head: Array, head_dim: int) -> Array:
  """Returns the index of the register in which a head ends."""
  return jax.lax.div((head + 1) * head_dim - 1, LANES)


def forward(*refs, head_dim: int):
  """Computes the output of one head.

  Args:
    *refs: the first and last register of each of q, k and v, then out, all
      (1, L, 128); then the carry of out, (L, 128).
    head_dim: width of a head.
  """
  *inputs, out_ref, carry = refs

  def body(registers: int, keep_own: Callable[[Array], Array]):
    q, k, v = _read(inputs, registers)
    for rows in kernels.chunks(q.shape[0]):
      out = kernels.attend(keep_own(q[rows]), k, v)
      _write(out_ref, carry, rows, out, keep_own)

  _run_head([(out_ref, carry)], head_dim, body)


def backward(*refs, head_dim: int):
  """Computes the gradients of one head.

  Args:
    *refs: the first and last register of each of q, k, v and d_out, then dq, dk
      and dv, all (1, L, 128); then the carries of dq, dk and dv, (L, 128).
    head_dim: width of a head.
  """
  inputs, outputs = refs[:8], list(zip(refs[8:11], refs[11:], strict=True))
  ln2 = math.log(2)  # q is in base-2 units

  def body(registers: int, keep_own: Callable[[Array], Array]):
    q, k, v, do = _read(inputs, registers)
    (dq_ref, dq_carry), *keys_and_values = outputs
    dk, dv = [], []
    for rows in kernels.chunks(q.shape[0]):
      grads = kernels.gradients(keep_own(q[rows]), k, v, keep_own(do[rows]))
      _write(dq_ref, dq_carry, rows, grads[0] * ln2, keep_own)
      dk.append(grads[1])
      dv.append(grads[2])
    whole = slice(0, q.shape[0])
    for refs, parts, scale in zip(
        keys_and_values, (dk, dv), (ln2, 1.0), strict=True
    ):
      x = functools.reduce(jnp.add, parts) * scale
      _write(*refs, whole, x, keep_own)

  _run_head(outputs, head_dim, body)


def _run_head(outputs, head_dim: int, body: Callable) -> None:
  """Runs `body` for the one or two registers that this step's head lies in.

  Args:
    outputs: pairs of an output and its carry.
    head_dim: width of a head.
    body: called with the number of registers (1 or 2) and with a function that
      replaces the lanes of other heads by zeros or by another array's values.
  """
  start = jax.lax.rem(pl.program_id(1) * head_dim, LANES)
  stop = start + head_dim

  # The first head to start in a register also stores the previous head's tail.
  @pl.when(start < head_dim)
  def _():
    for out, carry in outputs:
      out[0] = carry[...]

  def keep_own(x: Array, other: Array | None = None) -> Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    mask = (lane >= start) & (lane < stop)
    return jnp.where(mask, x, jnp.zeros_like(x) if other is None else other)

  pl.when(stop <= LANES)(lambda: body(1, keep_own))
  pl.when(stop > LANES)(lambda: body(2, keep_own))


def _read(refs: Sequence, registers: int) -> list[Array]:
  """Reads arrays, each from the refs of its first and last register."""
  pairs = zip(refs[::2], refs[1::2], strict=True)
  if registers == 1:
    return [first[0] for first, _ in pairs]
  return [jnp.concatenate([first[0], last[0]], axis=1) for first, last in pairs]


def _write(ref, carry, rows: slice, x: Array, keep_own: Callable) -> None:
  """Writes this head's lanes of x; a second register goes to `carry`."""
  x = x.astype(ref.dtype)
  ref[0, rows] = keep_own(x[:, :LANES], ref[0, rows])
  if x.shape[1] > LANES:
    carry[rows] = x[:, LANES:]
