"""The device mesh, and which part of each array lives where on it."""

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
# Below this many elements a parameter costs more to gather than to keep.
MIN_FSDP_SIZE = 2**14


def make_mesh(
    devices: Sequence[jax.Device] | None = None,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
) -> jax.sharding.Mesh:
  """Mesh of axes data, fsdp and tensor; one of them may be -1, "the rest"."""
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
  """`fn`, traced where layers can see the mesh.

  Kernels are split over devices by hand, and chosen for the devices' kind.
  """

  @functools.wraps(fn)
  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return fn(*args)

  return traced


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """First axis over data and fsdp."""
  return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, P())


def param_shardings(
    mesh: jax.sharding.Mesh, rules: Sequence, params: Mapping
) -> dict:
  """Shardings of a parameter tree by regex rules over names.

  Args:
    mesh: the device mesh.
    rules: (regex, how) in order, where how is "replicate"; "fsdp", the largest
      axis that divides; or a list of mesh axis names and None for the last
      axes of the array, e.g. (None, "tensor"), so that it holds for scanned
      layers, too.
    params: nested dict of arrays or shapes.
  """
  flat = tree.flatten(params)
  hows = tree.assign(rules, flat, what="config.sharding")
  return tree.unflatten(
      {
          name: NamedSharding(mesh, _spec(mesh, name, flat[name].shape, how))
          for name, how in hows.items()
      }
  )


def state_shardings(mesh: jax.sharding.Mesh, params: Mapping, state):
  """Shardings of a state holding copies shaped like parameters.

  A leaf whose path ends in a parameter's name, and which has its shape, is
  sharded like it; counters and factored moments are replicated.
  """
  flat = tree.flatten(params)

  def leaf_sharding(path, leaf):
    keys = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
    for start in range(len(keys)):
      like = flat.get("/".join(keys[start:]))
      if like is not None and like.shape == leaf.shape:
        return like.sharding
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(leaf_sharding, state)


def _spec(mesh, name: str, shape: tuple[int, ...], how) -> P:
  if how == "replicate":
    return P()
  if how == "fsdp":
    n = mesh.shape["fsdp"]
    fits = [i for i, size in enumerate(shape) if size % n == 0]
    if n == 1 or not fits or math.prod(shape) < MIN_FSDP_SIZE:
      return P()
    largest = max(fits, key=lambda i: shape[i])
    return P(*("fsdp" if i == largest else None for i in range(len(shape))))
  if isinstance(how, str) or len(how) > len(shape):
    raise UserError(
        "A rule of config.sharding is 'replicate', 'fsdp', or one mesh axis or"
        f" None per array axis; got {how!r} for {name} of shape {shape}."
    )
  spec = (None,) * (len(shape) - len(how)) + tuple(how)
  for size, axis in zip(shape, spec, strict=True):
    if axis is not None and size % mesh.shape.get(axis, size + 1):
      raise UserError(
          f"config.sharding: {name} of shape {shape} cannot be cut as {how!r};"
          f" the mesh has {dict(mesh.shape)}. Change the rule or config.mesh."
      )
  return P(*spec)
