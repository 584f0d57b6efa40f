"""Block sizes of the fused attention kernels in VMEM, and their cost."""

from collections.abc import Sequence
import dataclasses
import math

import jax.numpy as jnp

from siglip_jax.errors import UserError
from siglip_jax.models.attention import by_rows as kernels

_MIB = 2**20
_SPILLS = 6  # MiB for maps and registers
# (inputs, outputs) of the forward kernel and of the backward kernel, counted in
# arrays of the queries' shape.
_FORWARD_ARRAYS, _BACKWARD_ARRAYS = (3, 1), (4, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
  """The block that one step of a kernel's grid works on.

  Attributes:
    size: number of sequences.
    lanes: number of lanes of each row.
    buffers: number of buffers per block; 2 fetches one while the other is used.
    pack: number of sequences that share an attention map.
    by_head: whether a step computes one head, wherever its lanes are; if not,
      it computes all heads in `lanes`, which then hold whole heads.
  """

  size: int
  lanes: int
  buffers: int
  pack: int
  by_head: bool


def choose(
    shape: Sequence[int], dtype, num_heads: int, vmem: int, *, backward: bool
) -> Blocks:
  """Chooses the blocks of arrays (B, L, D).

  Rows are cut between heads if two buffers of the resulting blocks fit in VMEM.
  Heads that cross register boundaries, such as those of width 72 or 88, may
  allow only whole rows. If two buffers of whole rows do not fit, single heads
  come next: they are as fast as single-buffered rows, whose fetches nothing
  hides.

  Args:
    shape: shape of one array.
    dtype: dtype of all arrays.
    num_heads: number of heads in a row.
    vmem: VMEM of the device, MiB.
    backward: whether the blocks are for the backward kernel.

  Raises:
    UserError: neither rows nor single heads fit.
  """
  length, width = shape[1:]
  inputs, outputs = _BACKWARD_ARRAYS if backward else _FORWARD_ARRAYS
  head_dim = width // num_heads
  row_bytes = pad(length, 16) * jnp.dtype(dtype).itemsize
  budget = (vmem - _SPILLS) * _MIB
  lane_bytes = (inputs + outputs) * row_bytes
  # A head lies in at most two registers, so each input takes two blocks of two
  # buffers. Each output takes two buffers, and a carry that keeps the lanes in
  # the second register for the next head.
  head_bytes = (2 * 2 * inputs + 3 * outputs) * row_bytes * kernels.LANES
  if blocks := _row_blocks(shape, dtype, head_dim, 2, lane_bytes, budget):
    return blocks
  if head_bytes <= budget and head_dim <= kernels.LANES:
    return Blocks(size=1, lanes=kernels.LANES, buffers=2, pack=1, by_head=True)
  if blocks := _row_blocks(shape, dtype, head_dim, 1, lane_bytes, budget):
    return blocks
  raise UserError(
      f"Fused attention over {length} tokens of width {width} in heads of"
      f" {head_dim} needs {lane_bytes * width / _MIB:.1f} MiB of VMEM, or"
      f" {head_bytes / _MIB:.1f} MiB for one head of up to {kernels.LANES};"
      f" this chip has {budget / _MIB:.1f} MiB to give. Use attention='xla'."
  )


def _row_blocks(
    shape, dtype, head_dim: int, buffers: int, lane_bytes: int, budget: int
) -> Blocks | None:
  """Returns the best blocks of whole heads, or None if none fit.

  Args:
    shape: shape of one array, (B, L, D).
    dtype: dtype of all arrays.
    head_dim: width of a head.
    buffers: number of buffers per block.
    lane_bytes: bytes of one lane of one sequence, over all inputs and outputs.
    budget: bytes of VMEM for blocks.
  """
  batch, length, width = shape
  pack = packed(batch, length, dtype)
  for lanes in _widths(length, width, head_dim):
    block = lane_bytes * pad(lanes, kernels.LANES)
    if fit := budget // (buffers * block * pack):
      # 8 packs are enough to hide the start of a step; more gain nothing.
      most = range(1, min(fit, 8) + 1)
      groups = batch // pack
      size = pack * max(n for n in most if groups % n == 0)
      return Blocks(
          size=size, lanes=lanes, buffers=buffers, pack=pack, by_head=False
      )
  return None


def _widths(length: int, width: int, head_dim: int) -> Sequence[int]:
  """Returns widths of whole heads and whole registers, the best first."""
  step = math.lcm(head_dim, kernels.LANES)
  widths = [w for w in range(width, 0, -1) if w % step == 0 and width % w == 0]
  # Wide blocks move best, but kernels unroll over a block's heads. With several
  # chunks per head that code is long already, so narrow blocks come first.
  return sorted({width, *widths}, reverse=length <= kernels.CHUNK)


def cost(
    batch: int,
    length: int,
    num_heads: int,
    head_dim: int,
    dtype,
    *,
    backward: bool,
    mxu: int = 128,
    by_head: bool = False,
) -> tuple[int, int]:
  """Returns bytes moved to and from HBM and matmul FLOPs, with padding.

  Args:
    batch: number of sequences.
    length: tokens per sequence.
    num_heads: number of heads.
    head_dim: width of a head.
    dtype: dtype of the arrays.
    backward: whether to count the backward kernel, not the forward kernel.
    mxu: side of the matrix unit; 256 for v6e.
    by_head: see `Blocks`; if true, inputs are read twice.
  """
  width = num_heads * head_dim
  inputs, outputs = _BACKWARD_ARRAYS if backward else _FORWARD_ARRAYS
  arrays = (2 if by_head else 1) * inputs + outputs
  row_bytes = pad(width, kernels.LANES) * jnp.dtype(dtype).itemsize
  moved = batch * arrays * pad(length, 8) * row_bytes
  pack = 1 if by_head else packed(batch, length, dtype)
  rows = length * pack
  flops = 0
  for head in kernels.heads(width, head_dim):
    lanes = pad(len(head.tiles) * kernels.LANES, mxu)
    dot = 2 * pad(rows, 8) * lanes * pad(rows, mxu)
    flops += (5 if backward else 2) * dot
  return moved, flops * (batch // pack)


def packed(batch: int, length: int, dtype) -> int:
  """Returns the number of sequences that share one block-diagonal map.

  Packing fills a matrix tile. The number is above 1 only if the joined rows fit
  in one tile and joining them moves no data.
  """
  rows = 8 * 4 // jnp.dtype(dtype).itemsize
  if length % rows:
    return 1
  fit = range(1, kernels.LANES // length + 1)
  return max((n for n in fit if batch % n == 0), default=1)


def pad(n: int, multiple: int) -> int:
  """Rounds n up to a multiple of `multiple`."""
  return -(-n // multiple) * multiple
