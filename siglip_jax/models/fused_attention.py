"""Attention of short sequences as a Pallas TPU kernel: no map reaches HBM.

A head's whole map fits in VMEM many times over, so the kernels read queries,
keys and values once, write the output once, and save nothing for the backward
pass, which makes the map again. Arrays are (B, L, N*H), as the projections
make them: heads are lanes of one row, told apart in VMEM.

Maps are held with keys on sublanes and queries on lanes. Maxima and sums over
keys are then elementwise, and four of the five matmuls of the backward pass
need no transpose.
"""

from collections.abc import Sequence
import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.layout import Layout
from jax.experimental.layout import with_layout_constraint
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError
from siglip_jax.models import attention_kernels as kernels
from siglip_jax.sharding import BATCH_AXES

_MIB = 2**20
# Of a core; the compiler refuses more. Kinds not listed get the least.
_VMEM = {"TPU v5": 64, "TPU v5 lite": 128, "TPU v6 lite": 128}
_UNSUPPORTED = ("TPU v2", "TPU v3")  # Mosaic does not compile the kernels
_SPILLS = 6  # MiB for maps and registers
# As long and wide as the queries: three in, one out; and with gradients.
_FORWARD_ARRAYS, _BACKWARD_ARRAYS = 4, 7


def fused_attention(
    qkv: Float[Array, "B L E"], *, num_heads: int, interpret: bool = False
) -> Float[Array, "B L D"]:
  """softmax(query key^T) value for each head, E = 3 D, D = num_heads * H.

  Softmax and sums are float32, matmuls of the input's dtype. Under a mesh
  (`jax.sharding.use_abstract_mesh` or `jax.set_mesh`) the batch stays split
  over data and fsdp, and heads over tensor.

  Args:
    qkv: queries, keys and values side by side, as `join` makes projections.
    num_heads: must divide D.
    interpret: run on any device, slowly, for tests.

  Raises:
    UserError: the sequence does not fit in VMEM, or the TPU is a v2 or v3.
  """
  if _kind() in _UNSUPPORTED:
    raise UserError(
        f"Fused attention does not compile for {_kind()}: use attention='xla'."
    )
  mesh = jax.sharding.get_abstract_mesh()
  axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  auto = [a for a in axes if axes[a] != jax.sharding.AxisType.Manual]
  parts = _head_parts(num_heads)
  local = functools.partial(
      _attention,
      num_heads=num_heads // parts,
      vmem=_vmem(),
      interpret=interpret,
  )
  if not auto:
    return local(qkv)
  batch = tuple(a for a in BATCH_AXES if a in auto)
  spec = P(batch, None, "tensor" if parts > 1 else None)
  # Kernels are opaque to the partitioner, and their outputs' replication is
  # not tracked.
  return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=spec,
      out_specs=spec,
      axis_names=set(auto),
      check_vma=False,
  )(qkv)


def join(
    query: Float[Array, "... D"],
    key: Float[Array, "... D"],
    value: Float[Array, "... D"],
    num_heads: int,
) -> Float[Array, "... E"]:
  """The weights, or biases, of three projections as those of one.

  Its output is what `fused_attention` takes: one matmul reads its input once.
  Queries are scaled here, by 1 / sqrt(H) and to base 2: in float32, on weights
  that are rounded anyway, it costs no rounding of its own. Where a mesh splits
  heads over tensor, each device has its queries, keys and values side by side.
  """
  scale = (query.shape[-1] // num_heads) ** -0.5 / math.log(2)
  parts = _head_parts(num_heads)
  cut = [
      x.reshape(*x.shape[:-1], parts, -1) for x in (scale * query, key, value)
  ]
  return jnp.concatenate(cut, axis=-1).reshape(*query.shape[:-1], -1)


def _head_parts(num_heads: int) -> int:
  """Over how many devices the heads are split."""
  tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
  return tensor if num_heads % tensor == 0 else 1


def check(attention: str) -> None:
  """Raises UserError unless it is "auto", "xla" or "fused"."""
  if attention not in ("auto", "xla", "fused"):
    raise UserError(f"attention must be auto, xla or fused; got {attention!r}.")


def is_chosen(attention: str, x: Float[Array, "B L D"], num_heads: int) -> bool:
  """Whether `attention` means these kernels here, over x.

  "auto" does on TPUs, where both kernels find room in VMEM.
  """
  if attention != "auto":
    return attention == "fused"
  return on_tpu() and _kind() not in _UNSUPPORTED and _fits(x, num_heads)


def row_major(x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
  """x in the layout the kernels read; its gradient, too.

  Left alone, XLA:TPU lays a residual stream out with the batch innermost and
  copies it around every kernel.
  """
  if not on_tpu():
    return x
  return with_layout_constraint(x, Layout((0, 1, 2)))


def on_tpu() -> bool:
  """Whether what is being traced will run on a TPU.

  The mesh in context knows, also where no TPU is; else the default device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.abstract_device is None:
    return jax.default_backend() == "tpu"
  return mesh.abstract_device.platform == "tpu"


def _fits(x: Array, num_heads: int) -> bool:
  vmem = _vmem()
  try:
    for arrays in (_FORWARD_ARRAYS, _BACKWARD_ARRAYS):
      _block(x.shape, x.dtype, arrays, num_heads, vmem)
  except UserError:
    return False
  return True


def cost(
    batch: int,
    length: int,
    num_heads: int,
    head_dim: int,
    dtype,
    *,
    backward: bool,
    mxu: int = 128,
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
  """
  width = num_heads * head_dim
  arrays = _BACKWARD_ARRAYS if backward else _FORWARD_ARRAYS
  row_bytes = _pad(width, kernels.LANES) * jnp.dtype(dtype).itemsize
  moved = batch * arrays * _pad(length, 8) * row_bytes
  pack = _packed(batch, length, dtype)
  rows = length * pack
  flops = 0
  for head in kernels.heads(width, head_dim):
    lanes = _pad(len(head.tiles) * kernels.LANES, mxu)
    dot = 2 * _pad(rows, 8) * lanes * _pad(rows, mxu)
    flops += (5 if backward else 2) * dot
  return moved, flops * (batch // pack)


def _pad(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _kind() -> str:
  """The device's, as the mesh in context knows it, or an empty string."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return device.device_kind if device else ""


def _vmem() -> int:
  return _VMEM.get(_kind(), 16)


def _packed(batch: int, length: int, dtype) -> int:
  """Sequences that share one map, block by block on its diagonal.

  Only where that fills a matrix tile, and where joining them moves nothing.
  """
  rows = 8 * 4 // jnp.dtype(dtype).itemsize
  if length % rows:
    return 1
  fit = range(1, kernels.LANES // length + 1)
  return max((n for n in fit if batch % n == 0), default=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _attention(qkv, num_heads, vmem, interpret):
  return _forward(qkv, num_heads, vmem, interpret)[0]


def _forward(qkv, num_heads, vmem, interpret):
  batch, length, width = qkv.shape
  out = jax.ShapeDtypeStruct((batch, length, width // 3), qkv.dtype)
  (out,) = _call(kernels.forward, qkv, (), [out], num_heads, vmem, interpret)
  return out, qkv


def _backward(num_heads, vmem, interpret, qkv, d_out):
  like = [jax.ShapeDtypeStruct(d_out.shape, d_out.dtype)] * 3
  return (
      _joined(
          _call(
              kernels.backward, qkv, (d_out,), like, num_heads, vmem, interpret
          )
      ),
  )


_attention.defvjp(_forward, _backward)


def _joined(arrays: Sequence[Array]) -> Array:
  return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=-1)


def _call(kernel, qkv, more, like, num_heads, vmem, interpret):
  """Runs a kernel over blocks of sequences and of heads.

  Args:
    kernel: takes refs of q, k, v, of `more`, and of the outputs.
    qkv: queries, keys and values side by side.
    more: further inputs, as wide as one of them.
    like: shapes of the outputs, as wide as one of them; three are returned
      side by side in one array where a block holds whole rows.
    num_heads: in a row.
    vmem: MiB there are.
    interpret: see `fused_attention`.
  """
  batch, length, width = qkv.shape
  width //= 3
  head_dim, backward = width // num_heads, kernel is kernels.backward
  shape = (batch, length, width)
  arrays = 3 + len(more) + len(like)
  size, lanes, buffers, pack = _block(shape, qkv.dtype, arrays, num_heads, vmem)

  def spec(first_lane=0, width=lanes):
    first = first_lane // width
    return pl.BlockSpec(
        (size, length, width),
        lambda i, j: (i, 0, first + j),
        pipeline_mode=pl.Buffered(buffers),
    )

  if width % kernels.LANES:  # parts of a row that no block can start at
    inputs = [qkv[..., n * width : (n + 1) * width] for n in range(3)]
    specs = [spec()] * 3
  else:
    inputs, specs = [qkv] * 3, [spec(n * width) for n in range(3)]
  together = len(like) == 3 and lanes == width and width % kernels.LANES == 0
  kernel = functools.partial(kernel, head_dim=head_dim, pack=pack)
  out_specs = [spec()] * len(like)
  if together:
    kernel = _with_one_output(kernel, width)
    out_specs = [spec(width=3 * width)]
    like = [jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)]
  moved, flops = cost(
      batch,
      length,
      num_heads,
      head_dim,
      qkv.dtype,
      backward=backward,
      mxu=256 if _kind().startswith("TPU v6") else 128,
  )
  return pl.pallas_call(
      kernel,
      grid=(batch // size, width // lanes),
      in_specs=[*specs, *(spec() for _ in more)],
      out_specs=out_specs,
      out_shape=like,
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=("parallel", "parallel"),
          vmem_limit_bytes=vmem * _MIB,
      ),
      cost_estimate=pl.CostEstimate(
          flops=flops,
          bytes_accessed=moved,
          transcendentals=batch * num_heads * length**2,
      ),
      interpret=interpret,
      name="attention_backward" if backward else "attention_forward",
  )(*inputs, *more)


def _with_one_output(kernel, width: int):
  """The kernel, with its three outputs side by side in one."""

  def wrapped(*refs):
    *inputs, out = refs
    views = [out.at[:, :, pl.ds(n * width, width)] for n in range(3)]
    kernel(*inputs, *views)

  return wrapped


def _block(
    shape: Sequence[int], dtype, arrays: int, num_heads: int, vmem: int
) -> tuple[int, int, int, int]:
  """Sequences and lanes of a block, its buffers, and sequences to a map."""
  batch, length, width = shape
  pack = _packed(batch, length, dtype)
  row_bytes = arrays * _pad(length, 16) * jnp.dtype(dtype).itemsize
  budget = (vmem - _SPILLS) * _MIB
  step = math.lcm(width // num_heads, kernels.LANES)
  widths = [w for w in range(width, 0, -1) if w % step == 0 and width % w == 0]
  # Whole rows move best, but kernels unroll over the heads of a block, and
  # several chunks a head are long enough without.
  by_preference = sorted({width, *widths}, reverse=length <= kernels.CHUNK)
  for buffers in (2, 1):
    for lanes in by_preference:
      fit = budget // (buffers * row_bytes * _pad(lanes, kernels.LANES) * pack)
      if fit:
        # Enough to hide the start of a step; more gain nothing.
        most = range(1, min(fit, 8) + 1)
        groups = batch // pack
        size = pack * max(n for n in most if groups % n == 0)
        return size, lanes, buffers, pack
  raise UserError(
      f"Fused attention over {length} tokens of width {width} in heads of"
      f" {width // num_heads} needs {row_bytes * width / _MIB:.1f} MiB of VMEM;"
      f" this chip has {budget / _MIB:.1f} MiB to give. Use attention='xla'."
  )
