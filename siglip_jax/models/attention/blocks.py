"""How fused attention cuts arrays into blocks for VMEM, and what that costs."""

from collections.abc import Sequence
import dataclasses
import math

import jax.numpy as jnp

from siglip_jax.errors import UserError
from siglip_jax.models.attention import by_rows as kernels

_MIB = 2**20
_SPILLS = 6  # MiB for maps and registers
# As long and wide as the queries: inputs, outputs; and with gradients.
_FORWARD_ARRAYS, _BACKWARD_ARRAYS = (3, 1), (4, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
  """What a step of a kernel's grid works on.

  Attributes:
    size: sequences.
    lanes: of their rows.
    buffers: of each block, 2 to fetch one while the other is used.
    pack: sequences to a map.
    by_head: a step is one head, wherever its lanes lie; else it is all heads
      of `lanes`, which hold whole heads.
  """

  size: int
  lanes: int
  buffers: int
  pack: int
  by_head: bool


def choose(
    shape: Sequence[int], dtype, num_heads: int, vmem: int, *, backward: bool
) -> Blocks:
  """Blocks of arrays (B, L, D).

  Rows are cut between heads where that leaves blocks that fit twice. Heads that
  lie across registers, as those of 72 or 88, may leave only whole rows; then
  single heads are as fast as rows whose fetching nothing hides.

  Args:
    shape: of one array.
    dtype: of all.
    num_heads: in a row.
    vmem: MiB there are.
    backward: whether for the backward kernel.

  Raises:
    UserError: neither fits.
  """
  length, width = shape[1:]
  inputs, outputs = _BACKWARD_ARRAYS if backward else _FORWARD_ARRAYS
  head_dim = width // num_heads
  row_bytes = pad(length, 16) * jnp.dtype(dtype).itemsize
  budget = (vmem - _SPILLS) * _MIB
  one_buffer = (inputs + outputs) * row_bytes
  # A head lies in two registers at most; what it leaves of an output in the
  # second one waits for the next head.
  head = (2 * 2 * inputs + 3 * outputs) * row_bytes * kernels.LANES
  if found := _by_rows(shape, dtype, head_dim, 2, one_buffer, budget):
    return found
  if head <= budget and head_dim <= kernels.LANES:
    return Blocks(size=1, lanes=kernels.LANES, buffers=2, pack=1, by_head=True)
  if found := _by_rows(shape, dtype, head_dim, 1, one_buffer, budget):
    return found
  raise UserError(
      f"Fused attention over {length} tokens of width {width} in heads of"
      f" {head_dim} needs {one_buffer * width / _MIB:.1f} MiB of VMEM, or"
      f" {head / _MIB:.1f} MiB for one head of up to {kernels.LANES}; this chip"
      f" has {budget / _MIB:.1f} MiB to give. Use attention='xla'."
  )


def _by_rows(
    shape, dtype, head_dim: int, buffers: int, lane_bytes: int, budget: int
) -> Blocks | None:
  """Blocks of whole heads, if any fit; `lane_bytes` are of a row's lane."""
  batch, length, width = shape
  pack = packed(batch, length, dtype)
  for lanes in _widths(length, width, head_dim):
    block = lane_bytes * pad(lanes, kernels.LANES)
    if fit := budget // (buffers * block * pack):
      # Enough to hide the start of a step; more gain nothing.
      most = range(1, min(fit, 8) + 1)
      groups = batch // pack
      size = pack * max(n for n in most if groups % n == 0)
      return Blocks(
          size=size, lanes=lanes, buffers=buffers, pack=pack, by_head=False
      )
  return None


def _widths(length: int, width: int, head_dim: int) -> Sequence[int]:
  """Lanes that hold whole heads and whole registers, the best first."""
  step = math.lcm(head_dim, kernels.LANES)
  widths = [w for w in range(width, 0, -1) if w % step == 0 and width % w == 0]
  # Whole rows move best, but kernels unroll over the heads of a block, and
  # several chunks a head are long enough without.
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
  """Bytes moved to and from HBM, and matmul FLOPs, both as padded.

  Args:
    batch: sequences.
    length: of a sequence.
    num_heads: heads.
    head_dim: width of one.
    dtype: of the arrays.
    backward: of the backward kernel, else of the forward one.
    mxu: side of the matrix unit; 256 for v6e.
    by_head: see `Blocks`; inputs are read twice.
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
  """Sequences that share one map, block by block on its diagonal.

  Only where that fills a matrix tile, and where joining them moves nothing.
  """
  rows = 8 * 4 // jnp.dtype(dtype).itemsize
  if length % rows:
    return 1
  fit = range(1, kernels.LANES // length + 1)
  return max((n for n in fit if batch % n == 0), default=1)


def pad(n: int, multiple: int) -> int:
  """The next multiple."""
  return -(-n // multiple) * multiple
