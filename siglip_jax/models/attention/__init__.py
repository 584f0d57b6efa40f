"""Pallas TPU attention for short sequences; attention maps never reach HBM.

A head's whole attention map fits in VMEM many times over. The kernels therefore
read queries, keys and values once, write the output once, and save nothing for
the backward pass, which recomputes the map. Arrays are (B, L, N*H), as the
projections produce them: heads are lanes of one row and are separated in VMEM.

Maps have keys on sublanes and queries on lanes. Maxima and sums over keys are
then elementwise, and four of the five matmuls of the backward pass need no
transpose.
"""

import functools
import math

import jax
from jax.experimental.layout import Layout
from jax.experimental.layout import with_layout_constraint
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError
from siglip_jax.models.attention import blocks
from siglip_jax.models.attention import calls
from siglip_jax.plan import chips
from siglip_jax.sharding import BATCH_AXES


def fused_attention(
    qkv: Float[Array, "B L E"], *, num_heads: int, interpret: bool = False
) -> Float[Array, "B L D"]:
  """Returns softmax(query key^T) value for each head.

  E = 3 D and D = num_heads * H. The softmax and sums are float32; matmuls have
  the input's dtype. Under a mesh (`jax.sharding.use_abstract_mesh` or
  `jax.set_mesh`) the batch stays split over data and fsdp, and heads over
  tensor.

  Args:
    qkv: queries, keys and values side by side: the output of a dense layer
      whose weights and biases come from `join`.
    num_heads: number of heads; must divide D.
    interpret: whether to run on any device, slowly, for tests.

  Raises:
    UserError: the sequence does not fit in VMEM, or the TPU is a v2 or v3.
  """
  if not _chip().kernels:
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
      device=_device(interpret),
  )
  if not auto:
    return local(qkv)
  batch = tuple(a for a in BATCH_AXES if a in auto)
  spec = P(batch, None, "tensor" if parts > 1 else None)
  # The partitioner cannot see inside kernels, hence the shard_map; check_vma is
  # off because the replication of kernel outputs is not tracked.
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
  """Joins the weights, or the biases, of three projections into one.

  The joined projection outputs what `fused_attention` takes, and its single
  matmul reads the input once. The query weights are scaled by 1 / sqrt(H) and
  converted to base 2. Scaling float32 weights adds no rounding of its own,
  because they are rounded for the matmul anyway. If the mesh splits heads over
  tensor, each device's queries, keys and values are side by side.
  """
  scale = (query.shape[-1] // num_heads) ** -0.5 / math.log(2)
  parts = _head_parts(num_heads)
  cut = [
      x.reshape(*x.shape[:-1], parts, -1) for x in (scale * query, key, value)
  ]
  return jnp.concatenate(cut, axis=-1).reshape(*query.shape[:-1], -1)


def _head_parts(num_heads: int) -> int:
  """Returns the number of devices that the heads are split over."""
  tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
  return tensor if num_heads % tensor == 0 else 1


def check(attention: str) -> None:
  """Raises UserError unless `attention` is "auto", "xla" or "fused"."""
  if attention not in ("auto", "xla", "fused"):
    raise UserError(f"attention must be auto, xla or fused; got {attention!r}.")


def is_chosen(attention: str, x: Float[Array, "B L D"], num_heads: int) -> bool:
  """Whether `attention` selects these kernels for x on the target device.

  "auto" selects them on TPUs if both kernels fit in VMEM: on v4, up to about
  1,500 tokens of any width.
  """
  if attention != "auto":
    return attention == "fused"
  return on_tpu() and _chip().kernels and _fits(x, num_heads)


def row_major(x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
  """Constrains x and its gradient to the layout that the kernels read.

  Without the constraint, XLA:TPU lays the residual stream out with the batch
  innermost and copies it around every kernel.
  """
  if not on_tpu():
    return x
  return with_layout_constraint(x, Layout((0, 1, 2)))


def platform() -> str:
  """Returns the platform being traced for: "cpu", "gpu" or "tpu".

  This is the platform of the mesh in context, which may be a TPU that this
  machine does not have. Without a mesh it is the default backend.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.abstract_device is None:
    return jax.default_backend()
  return mesh.abstract_device.platform


def on_tpu() -> bool:
  """Whether the code being traced will run on a TPU."""
  return platform() == "tpu"


def _fits(x: Array, num_heads: int) -> bool:
  vmem = _device().vmem
  try:
    for backward in (False, True):
      blocks.choose(x.shape, x.dtype, num_heads, vmem, backward=backward)
  except UserError:
    return False
  return True


def _kind() -> str:
  """Returns the device kind of the mesh in context, or an empty string."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return device.device_kind if device else ""


def _chip() -> chips.Chip:
  return chips.of_kind(_kind())


def _device(interpret: bool = False) -> calls.Device:
  chip = _chip()
  return calls.Device(vmem=chip.vmem, mxu=chip.mxu, interpret=interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attention(qkv, num_heads, device):
  return _forward(qkv, num_heads, device)[0]


def _forward(qkv, num_heads, device):
  return calls.forward(qkv, num_heads, device), qkv


def _backward(num_heads, device, qkv, d_out):
  return (calls.backward(qkv, d_out, num_heads, device),)


_attention.defvjp(_forward, _backward)
