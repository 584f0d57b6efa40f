"""Calls of the fused attention kernels on whole arrays: grids and blocks."""

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
  """The device that kernels are compiled for.

  Attributes:
    vmem: VMEM of the device, MiB.
    mxu: side of the matrix unit.
    interpret: whether to run on any device, slowly.
  """

  vmem: int
  mxu: int
  interpret: bool


def forward(
    qkv: Float[Array, "B L E"], num_heads: int, device: Device
) -> Float[Array, "B L D"]:
  """Returns the output of attention.

  Args:
    qkv: queries, keys and values side by side, E = 3 D.
    num_heads: number of heads in D.
    device: the device to run on.
  """
  return _call(qkv, (), num_heads, device)[0]


def backward(
    qkv: Float[Array, "B L E"],
    d_out: Float[Array, "B L D"],
    num_heads: int,
    device: Device,
) -> Float[Array, "B L E"]:
  """Returns the gradient of qkv; see `forward` for the arguments."""
  grads = _call(qkv, (d_out,), num_heads, device)
  return grads[0] if len(grads) == 1 else jnp.concatenate(grads, axis=-1)


def _call(qkv, more, num_heads, device: Device) -> Sequence[Array]:
  """Runs the forward kernel, or the backward kernel if `more` is not empty.

  Args:
    qkv: queries, keys and values side by side.
    more: empty, or (d_out,) for the backward kernel.
    num_heads: number of heads.
    device: the device to run on.

  Returns:
    The outputs. If a block holds whole rows, the three outputs of the backward
    kernel may be side by side in one array.
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
  run = _run_by_head if blocks.by_head else _run_by_rows
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


def _run_by_rows(qkv, more, num_heads, blocks: blocks_lib.Blocks, **options):
  """Runs a kernel over blocks of sequences and of lanes with whole heads."""
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

  if width % _LANES:  # a block cannot start at the keys or values of a row
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
  """Wraps a kernel so that its three outputs are side by side in one."""

  def wrapped(*refs):
    *inputs, out = refs
    views = [out.at[:, :, pl.ds(n * width, width)] for n in range(3)]
    kernel(*inputs, *views)

  return wrapped


def _run_by_head(qkv, more, num_heads, blocks: blocks_lib.Blocks, **options):
  """Runs a kernel over heads; blocks are the registers a head may lie in."""
  batch, length, width = qkv.shape
  width //= 3
  head_dim = width // num_heads
  padding = 0
  if width % _LANES:  # the row fills its last register only in part
    # An extra head of zeros starts in that register, and so stores the last
    # head's tail.
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
  outputs = pl.pallas_call(
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
  return [x[..., :width] for x in outputs]


def _parts(qkv: Array) -> Sequence[Array]:
  return jnp.split(qkv, 3, axis=-1)
