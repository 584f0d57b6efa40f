"""Losses over L2-normalised embeddings; `make` picks one by name."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import inspect

import jax

from siglip_jax.config import schema
from siglip_jax.errors import UserError
from siglip_jax.losses import negatives
from siglip_jax.losses.negatives import masked_sigmoid_loss
from siglip_jax.losses.sigmoid import bce_mean_loss
from siglip_jax.losses.sigmoid import ring_sigmoid_loss
from siglip_jax.losses.sigmoid import sigmoid_loss
from siglip_jax.losses.softmax import ring_softmax_loss
from siglip_jax.losses.softmax import softmax_loss

__all__ = [
    "LOSSES",
    "Loss",
    "bce_mean_loss",
    "make",
    "masked_sigmoid_loss",
    "ring_sigmoid_loss",
    "ring_softmax_loss",
    "sigmoid_loss",
    "softmax_loss",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
  """A loss that configs can name.

  Attributes:
    function: (zimg, ztxt, *scalars) -> loss, with its options after a `*`. It
      is also passed the mesh, the batch axes and a random key if it has
      arguments `mesh`, `axis` and `key`.
    learns: names of the scalar parameters that it takes, in order.
    check: raises UserError for values of options that it does not take.
  """

  function: Callable[..., jax.Array]
  learns: tuple[str, ...]
  check: Callable[..., None] = lambda **_: None


# The one registry: what is here can be named in config.loss.
LOSSES = {
    "ring_sigmoid": Loss(function=ring_sigmoid_loss, learns=("t", "b")),
    "sigmoid": Loss(function=sigmoid_loss, learns=("t", "b")),
    "masked_sigmoid": Loss(
        function=masked_sigmoid_loss,
        learns=("t", "b"),
        check=negatives.check_options,
    ),
    "ring_softmax": Loss(function=ring_softmax_loss, learns=("t",)),
    "softmax": Loss(function=softmax_loss, learns=("t",)),
    "bce_mean": Loss(function=bce_mean_loss, learns=()),
}


def make(
    mesh: jax.sharding.Mesh,
    axes: tuple[str, ...],
    *,
    name: str,
    dtype: str | None = None,
    **options,
) -> Callable[..., jax.Array]:
  """Returns loss(zimg, ztxt, params, key), with `t` and `b` of the parameters.

  Args:
    mesh: the device mesh.
    axes: mesh axes the batch is sharded over.
    name: one of `LOSSES`.
    dtype: embeddings are rounded to it before they are compared; None keeps
      float32. bfloat16 is what a TPU's default matmul rounds to in any case,
      at half the memory and traffic.
    **options: keyword arguments of the loss, as `block`.

  Raises:
    UserError: an unknown loss, an option it does not have, or a model without
      the scalars that it learns.
  """
  if name not in LOSSES:
    raise UserError(
        f"config.loss.name must be one of {', '.join(LOSSES)}; got {name!r}."
    )
  loss, scalars = LOSSES[name].function, LOSSES[name].learns
  if dtype not in (None, "float32", "bfloat16"):
    raise UserError(
        f"config.loss.dtype must be None, float32 or bfloat16; got {dtype!r}."
    )
  schema.check("config.loss", options, loss, passed=("mesh", "axis"))
  parameters = inspect.signature(loss).parameters
  shared = {"mesh": mesh, "axis": axes}
  shared = {k: v for k, v in shared.items() if k in parameters}
  LOSSES[name].check(**options)
  loss = functools.partial(loss, **shared, **options)

  def with_params(zimg, ztxt, params: Mapping, key: jax.Array):
    if missing := [s for s in scalars if s not in params]:
      raise UserError(
          f"The loss {name} learns {missing}, which the model does not have:"
          " set config.model.bias_init."
      )
    if dtype is not None:
      zimg, ztxt = zimg.astype(dtype), ztxt.astype(dtype)
    args = [params[s][0] for s in scalars]
    return loss(zimg, ztxt, *args, *([key] if "key" in parameters else []))

  return with_params
