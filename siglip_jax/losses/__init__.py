"""Losses over L2-normalised embeddings; `make` picks one by name."""

from collections.abc import Callable
from collections.abc import Mapping
import functools

import jax

from siglip_jax.errors import UserError
from siglip_jax.losses.sigmoid import bce_mean_loss
from siglip_jax.losses.sigmoid import ring_sigmoid_loss
from siglip_jax.losses.sigmoid import sigmoid_loss
from siglip_jax.losses.softmax import softmax_loss

__all__ = [
    "bce_mean_loss",
    "make",
    "ring_sigmoid_loss",
    "sigmoid_loss",
    "softmax_loss",
]


def make(
    mesh: jax.sharding.Mesh, axes: tuple[str, ...], *, name: str, **options
) -> Callable[..., jax.Array]:
  """Returns loss(zimg, ztxt, params), reading `t` and `b` from the parameters.

  Args:
    mesh: the device mesh.
    axes: mesh axes the batch is sharded over.
    name: `ring_sigmoid`, `sigmoid`, `softmax` or `bce_mean`.
    **options: `block` of the ring, `temperature` of bce_mean.
  """
  if name == "ring_sigmoid":
    loss = functools.partial(ring_sigmoid_loss, mesh=mesh, axis=axes, **options)
    return lambda zi, zt, p: loss(zi, zt, *_scalars(p, "t", "b"))
  if name == "sigmoid":
    loss = functools.partial(sigmoid_loss, **options)
    return lambda zi, zt, p: loss(zi, zt, *_scalars(p, "t", "b"))
  if name == "softmax":
    loss = functools.partial(softmax_loss, **options)
    return lambda zi, zt, p: loss(zi, zt, *_scalars(p, "t"))
  if name == "bce_mean":
    loss = functools.partial(bce_mean_loss, **options)
    return lambda zi, zt, p: loss(zi, zt)
  raise UserError(
      "config.loss.name must be ring_sigmoid, sigmoid, softmax or bce_mean;"
      f" got {name!r}."
  )


def _scalars(params: Mapping, *names: str) -> list[jax.Array]:
  if missing := [n for n in names if n not in params]:
    raise UserError(
        f"This loss learns {names}, but the model has no {missing}: set"
        " config.model.bias_init."
    )
  return [params[n][0] for n in names]
