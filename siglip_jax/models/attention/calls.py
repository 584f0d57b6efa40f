"""The fused attention kernels over whole arrays: their grids and blocks."""

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.models.attention import blocks as blocks_lib
from siglip_jax.models.attention import by_head as by_head
from siglip_jax.models.attention import by_rows as kernels

_LANES = kernels.LANES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
  """What kernels are compiled for.

  Attributes:
    vmem: MiB of it.
    mxu: side of the matrix unit.
    interpret: run anywhere, slowly.
  """

  vmem: int
  mxu: int
  interpret: bool


def forward(
    qkv: Float[Array, "B L E"], num_heads: int, device: Device
) -> Float[Array, "B L D"]:
  """Attention's output.

  Args:
    qkv: queries, keys and values side by side, E = 3 D.
    num_heads: in D.
    device: where it runs.
  """
  return _call(qkv, (), num_heads, device)[0]


def backward(
    qkv: Float[Array, "B L E"],
    d_out: Float[Array, "B L D"],
    num_heads: int,
    device: Device,
) -> Float[Array, "B L E"]:
  """The gradient of qkv; arguments as of `forward`."""
  found = _call(qkv, (d_out,), num_heads, device)
  return found[0] if len(found) == 1 else jnp.concatenate(found, axis=-1)


def _call(qkv, more, num_heads, device: Device) -> Sequence[Array]:
  """Runs a kernel: the forward one, or the backward one where there is more.

  Returns the outputs, three of them side by side in one array where a block
  holds whole rows.
  """
  batch, length, width = qkv.shape
  width //= 3
  is_backward = bool(more)
  shape = (batch, length, width)
  blocks = blocks_lib.choose(
      shape, qkv.dtype, num_heads, device.vmem, backward=is_backward
  )
  moved, flops = blocks_lib.cost(
      batch,
      length,
      num_heads,
      width // num_heads,
      qkv.dtype,
      backward=is_backward,
      mxu=device.mxu,
      by_head=blocks.by_head,
  )
  run = _by_head if blocks.by_head else _by_rows
  return run(
      qkv,
      more,
      num_heads,
      blocks,
      name="attention_backward" if is_backward else "attention_forward",
      interpret=device.interpret,
      cost_estimate=pl.CostEstimate(
          flops=flops,
          bytes_accessed=moved,
          transcendentals=batch * num_heads * length**2,
      ),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=(
              "parallel",
              "arbitrary" if blocks.by_head else "parallel",
          ),
          vmem_limit_bytes=device.vmem * 2**20,
      ),
  )


def _by_rows(qkv, more, num_heads, blocks: blocks_lib.Blocks, **options):
  """Steps over blocks of sequences, and of lanes that hold whole heads."""
  batch, length, width = qkv.shape
  width //= 3
  size, lanes = blocks.size, blocks.lanes

  def spec(first_lane=0, width=lanes):
    first = first_lane // width
    return pl.BlockSpec(
        (size, length, width),
        lambda i, j: (i, 0, first + j),
        pipeline_mode=pl.Buffered(blocks.buffers),
    )

  if width % _LANES:  # parts of a row that no block can start at
    inputs, specs = _parts(qkv), [spec()] * 3
  else:
    inputs, specs = [qkv] * 3, [spec(n * width) for n in range(3)]
  body = kernels.backward if more else kernels.forward
  kernel = functools.partial(
      body, head_dim=width // num_heads, pack=blocks.pack
  )
  count = 3 if more else 1
  out_specs, out_width = [spec()] * count, width
  if more and lanes == width and width % _LANES == 0:
    kernel, count = _with_one_output(kernel, width), 1
    out_specs, out_width = [spec(width=3 * width)], 3 * width
  out = jax.ShapeDtypeStruct((batch, length, out_width), qkv.dtype)
  return pl.pallas_call(
      kernel,
      grid=(batch // size, width // lanes),
      in_specs=[*specs, *(spec() for _ in more)],
      out_specs=out_specs,
      out_shape=[out] * count,
      **options,
  )(*inputs, *more)


def _with_one_output(kernel, width: int):
  """The kernel, with its three outputs side by side in one."""

  def wrapped(*refs):
    *inputs, out = refs
    views = [out.at[:, :, pl.ds(n * width, width)] for n in range(3)]
    kernel(*inputs, *views)

  return wrapped


def _by_head(qkv, more, num_heads, blocks: blocks_lib.Blocks, **options):
  """Steps over heads: blocks are the two registers that one may lie in."""
  batch, length, width = qkv.shape
  width //= 3
  head_dim = width // num_heads
  padding = 0
  if width % _LANES:  # a last register that the row fills in part
    # One head more, of zeros, begins there, and so writes what is left for it.
    num_heads += 1
    padding = blocks_lib.pad(width + head_dim, _LANES) - width
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, padding)))
    inputs, more = [pad(x) for x in _parts(qkv)], [pad(x) for x in more]
    firsts = [0, 0, 0]
  else:
    inputs, firsts = [qkv] * 3, [n * width // _LANES for n in range(3)]

  def spec(first, tile):
    return pl.BlockSpec(
        (blocks.size, length, _LANES),
        lambda i, head: (i, 0, first + tile(head, head_dim)),
    )

  count = 3 if more else 1
  inputs, firsts = [*inputs, *more], [*firsts, *(0 for _ in more)]
  out = jax.ShapeDtypeStruct((batch, length, width + padding), qkv.dtype)
  found = pl.pallas_call(
      functools.partial(
          by_head.backward if more else by_head.forward, head_dim=head_dim
      ),
      grid=(batch // blocks.size, num_heads),
      in_specs=[
          spec(first, tile)
          for first in firsts
          for tile in (by_head.first_tile, by_head.last_tile)
      ],
      out_specs=[spec(0, by_head.first_tile)] * count,
      out_shape=[out] * count,
      scratch_shapes=[pltpu.VMEM((length, _LANES), qkv.dtype)] * count,
      **options,
  )(*(x for x in inputs for _ in range(2)))
  return [x[..., :width] for x in found]


def _parts(qkv: Array) -> Sequence[Array]:
  return jnp.split(qkv, 3, axis=-1)
