"""The device mesh and the shardings of arrays on it."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import math

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from siglip_jax import tree
from siglip_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
AXES = (*BATCH_AXES, "tensor")
# A parameter with fewer elements costs more to gather than to replicate.
MIN_FSDP_SIZE = 2**14


def make_mesh(
    devices: Sequence[jax.Device] | None = None,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
) -> jax.sharding.Mesh:
  """Returns a mesh with axes data, fsdp and tensor.

  One of the sizes may be -1, which stands for all remaining devices.

  Raises:
    UserError: the sizes are invalid or do not use every device.
  """
  count = len(devices) if devices is not None else jax.device_count()
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise UserError(
        "config.mesh takes positive sizes, at most one of them -1; got"
        f" {dict(zip(AXES, sizes, strict=True))}."
    )
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes:
    sizes[sizes.index(-1)] = max(count // known, 1)
  if math.prod(sizes) != count:
    raise UserError(
        f"config.mesh must use every device: there are {count}, got"
        f" {dict(zip(AXES, sizes, strict=True))} = {math.prod(sizes)}."
    )
  return jax.make_mesh(
      tuple(sizes),
      AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
      devices=devices,
  )


def nearest_multiples(size: int, divisor: int) -> str:
  """Returns the positive multiples of `divisor` around `size`, in words."""
  below = size // divisor * divisor
  above = below + divisor
  return f"{below} and {above}" if below else f"{above} and {2 * above}"


def on_mesh(mesh: jax.sharding.Mesh, fn: Callable) -> Callable:
  """Wraps `fn` so that the mesh is in context while it is traced.

  Layers need the mesh to split kernels over devices and to choose kernels for
  the kind of device.
  """

  @functools.wraps(fn)
  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return fn(*args)

  return traced


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of a batch: first axis over data and fsdp."""
  return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding with a full copy on every device."""
  return NamedSharding(mesh, P())


def param_shardings(
    mesh: jax.sharding.Mesh, rules: Sequence, params: Mapping
) -> dict:
  """Returns the shardings of a parameter tree by regex rules over names.

  Args:
    mesh: the device mesh.
    rules: (regex, value) in order of precedence. A value is one of:
      "replicate"; "fsdp", which shards the largest axis that divides evenly; or
      a list with a mesh axis name or None for each of the array's last axes,
      e.g. (None, "tensor"), which also fits scanned layers.
    params: nested dict of arrays or shapes.

  Raises:
    UserError: a value is invalid or does not fit a parameter, a parameter
      matches no rule, or a rule decides no parameter.
  """
  flat = tree.flatten(params)
  values = tree.assign(rules, flat, what="config.sharding")
  return tree.unflatten(
      {
          name: NamedSharding(mesh, _spec(mesh, name, flat[name].shape, value))
          for name, value in values.items()
      }
  )


def state_shardings(mesh: jax.sharding.Mesh, params: Mapping, state):
  """Returns the shardings of an optimizer state.

  A leaf whose path ends in a parameter's name and which has that parameter's
  shape is sharded like the parameter. Other leaves, such as counters and
  factored moments, are replicated.
  """
  flat = tree.flatten(params)

  def leaf_sharding(path, leaf):
    keys = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
    for start in range(len(keys)):
      param = flat.get("/".join(keys[start:]))
      if param is not None and param.shape == leaf.shape:
        return param.sharding
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(leaf_sharding, state)


def _spec(mesh, name: str, shape: tuple[int, ...], value) -> P:
  if value == "replicate":
    return P()
  if value == "fsdp":
    n = mesh.shape["fsdp"]
    divisible = [i for i, size in enumerate(shape) if size % n == 0]
    if n == 1 or not divisible or math.prod(shape) < MIN_FSDP_SIZE:
      return P()
    largest = max(divisible, key=lambda i: shape[i])
    return P(*("fsdp" if i == largest else None for i in range(len(shape))))
  if isinstance(value, str) or len(value) > len(shape):
    raise UserError(
        "A rule of config.sharding is 'replicate', 'fsdp', or one mesh axis or"
        f" None per array axis; got {value!r} for {name} of shape {shape}."
    )
  spec = (None,) * (len(shape) - len(value)) + tuple(value)
  for size, axis in zip(shape, spec, strict=True):
    if axis is not None and size % mesh.shape.get(axis, size + 1):
      raise UserError(
          f"config.sharding: {name} of shape {shape} cannot be cut as"
          f" {value!r}; the mesh has {dict(mesh.shape)}. Change the rule or"
          " config.mesh."
      )
  return P(*spec)
