"""Losses over L2-normalised embeddings; `make` builds one by name."""

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
    function: (zimg, ztxt, *scalars) -> loss, with keyword-only options. If it
      has arguments `mesh`, `axis` and `key`, it also receives the mesh, the
      batch axes and a random key.
    learns: names of the scalar parameters that it takes, in order.
    check: raises UserError for option values that the loss does not accept.
  """

  function: Callable[..., jax.Array]
  learns: tuple[str, ...]
  check: Callable[..., None] = lambda **_: None


# The registry of losses that config.loss can name.
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
  """Returns loss(zimg, ztxt, params, key), which reads `t` and `b` from params.

  Args:
    mesh: the device mesh.
    axes: mesh axes that the batch is sharded over.
    name: name of the loss, a key of `LOSSES`.
    dtype: dtype that embeddings are rounded to before the loss; None keeps
      float32. bfloat16 halves memory and traffic, and a TPU's default matmul
      rounds to it anyway.
    **options: keyword arguments of the loss, such as `block`.

  Raises:
    UserError: the loss is unknown or does not have an option. The returned
      function raises it if the model lacks a scalar that the loss learns.
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
