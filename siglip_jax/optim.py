"""Optimizers by config, with rules over parameter names."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
import optax

from siglip_jax import schedules
from siglip_jax import tree
from siglip_jax.config import schema
from siglip_jax.errors import UserError

Rules = Sequence[tuple[str, Any]]
_FROZEN_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """What to do with gradients of the trainable parameters.

  `tx` is over the tree of the `trainable` names alone: what is `frozen` has
  neither gradient nor optimizer memory, and is kept in `frozen_dtype`.
  """

  tx: optax.GradientTransformation
  trainable: frozenset[str]
  frozen: frozenset[str]
  frozen_dtype: jnp.dtype
  schedules: Mapping[str, schedules.Schedule]
  lr: float

  def lr_at(self, step: ArrayLike) -> dict[str, Float[Array, ""]]:
    """Learning rates at a step, before lr_mults, by regex of `schedule`."""
    return {k: self.lr * f(step) for k, f in self.schedules.items()}

  def store(self, params: Mapping) -> dict:
    """The parameters with the frozen ones in `frozen_dtype`."""
    flat = tree.flatten(params)
    frozen = {n: flat[n].astype(self.frozen_dtype) for n in self.frozen}
    return tree.unflatten(flat | frozen)


def make(
    params: Mapping,
    total_steps: int,
    batch_size: int,
    num_examples: int | None = None,
    *,
    lr: float,
    schedule: Rules,
    name: str = "adam",
    options: Mapping[str, Any] | None = None,
    wd: float = 0.0,
    lr_mults: Rules = ((".*", 1.0),),
    wd_mults: Rules = ((".*/kernel", 1.0), (".*", 0.0)),
    clip_norm: float | None = 1.0,
    frozen_dtype: str = "float32",
) -> Optimizer:
  """Makes an optimizer: for a run, as its config.optim says after the `*`.

  The update is p -= schedule * (lr * lr_mult * u + wd * wd_mult * p), u being
  the optimizer's direction: weight decay follows the schedule and not the
  learning rate, as in big_vision.

  Args:
    params: the parameter tree, arrays or shapes.
    total_steps: length of the schedule.
    batch_size: global, for durations in examples.
    num_examples: in an epoch, for durations in epochs.
    lr: peak learning rate.
    schedule: (regex, keyword arguments of `schedules.make`, or None to freeze).
    name: adam, adafactor, lion or sgd.
    options: keyword arguments of the optimizer, e.g. dict(b2=0.95).
    wd: weight decay.
    lr_mults: (regex, factor on lr).
    wd_mults: (regex, factor on wd); kernels alone decay by default.
    clip_norm: largest global norm of the trainable gradient, or None.
    frozen_dtype: what frozen parameters are kept in: "bfloat16" halves their
      memory, and rounds them.

  Raises:
    UserError: an unknown name or option, or a rule that misses.
  """
  names = list(tree.flatten(params))
  if clip_norm is not None and not clip_norm > 0:
    raise UserError(
        "config.optim.clip_norm must be positive, or None not to clip; got"
        f" {clip_norm}."
    )
  by_name = tree.assign(schedule, names, what="config.optim.schedule")
  lr_of = tree.assign(lr_mults, names, what="config.optim.lr_mults")
  wd_of = tree.assign(wd_mults, names, what="config.optim.wd_mults")
  made = {}
  for regex, kwargs in schedule:
    if kwargs is not None:
      field = f"config.optim.schedule of {regex!r}"
      schema.check(field, kwargs, schedules.make)
      made[regex] = schedules.make(
          total_steps, batch_size, num_examples, **kwargs
      )
  regex_of = tree.assign(
      [(regex, regex) for regex, _ in schedule], names, what="schedule"
  )
  trainable = frozenset(n for n in names if by_name[n] is not None)
  if not trainable:
    raise UserError("config.optim.schedule freezes everything: nothing to do.")
  run = (total_steps, batch_size, num_examples)
  delays = {n: schedules.delayed(*run, **by_name[n]) for n in trainable}
  parts = [_hold(delays)] if any(delays.values()) else []
  if clip_norm is not None:
    parts.append(optax.clip_by_global_norm(clip_norm))
  parts += [
      _direction(name, options or {}),
      _apply_rates(
          lr={n: lr * lr_of[n] for n in trainable},
          wd={n: wd * wd_of[n] for n in trainable},
          rate={n: made[regex_of[n]] for n in trainable},
      ),
  ]
  return Optimizer(
      tx=optax.chain(*parts),
      trainable=trainable,
      frozen=frozenset(names) - trainable,
      frozen_dtype=_storage(frozen_dtype),
      schedules=made,
      lr=lr,
  )


def _storage(dtype: str) -> jnp.dtype:
  if dtype not in _FROZEN_DTYPES:
    raise UserError(
        f"config.optim.frozen_dtype must be one of {', '.join(_FROZEN_DTYPES)};"
        f" got {dtype!r}."
    )
  return jnp.dtype(dtype)


def _hold(delays: Mapping[str, int]) -> optax.GradientTransformation:
  """Zeroes the gradient of each parameter until its delay is over.

  So the rest trains, clipping too, exactly as if these were frozen.
  """

  def init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    del params
    new = {
        n: jnp.where(state.count < delays[n], 0.0, u) if delays[n] else u
        for n, u in tree.flatten(updates).items()
    }
    count = optax.safe_increment(state.count)
    return tree.unflatten(new), optax.ScaleByScheduleState(count=count)

  return optax.GradientTransformation(init, update)


def _apply_rates(*, lr, wd, rate) -> optax.GradientTransformation:
  """Learning rates, weight decay and schedules, a parameter at a time."""

  def init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    assert params is not None, "weight decay needs the parameters"
    flat = tree.flatten(params)
    multiplier = {f: f(state.count) for f in set(rate.values())}
    new = {
        n: _scaled(multiplier[rate[n]], lr[n] * u + wd[n] * flat[n])
        for n, u in tree.flatten(updates).items()
    }
    count = optax.safe_increment(state.count)
    return tree.unflatten(new), optax.ScaleByScheduleState(count=count)

  return optax.GradientTransformation(init, update)


def _scaled(multiplier: Array, direction: Array) -> Array:
  """-multiplier * direction, of which 0 changes no bit: x + -0.0 is x."""
  return jnp.where(multiplier == 0, -0.0, -multiplier * direction)


def _direction(name: str, options: Mapping) -> optax.GradientTransformation:
  makers: dict[str, Callable[..., optax.GradientTransformation]] = {
      "adam": _adam,
      "adafactor": _adafactor,
      "lion": _lion,
      "sgd": _sgd,
  }
  if name not in makers:
    raise UserError(
        f"config.optim.name must be one of {', '.join(makers)}; got {name!r}:"
        f" {schema.suggest(name, makers)}"
    )
  schema.check(f"config.optim.options of {name}", options, makers[name])
  return makers[name](**options)


def _adam(
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: str | None = None,
) -> optax.GradientTransformation:
  return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)


def _lion(
    *, b1: float = 0.9, b2: float = 0.99, mu_dtype: str | None = None
) -> optax.GradientTransformation:
  return optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=mu_dtype)


def _sgd(*, momentum: float = 0.9) -> optax.GradientTransformation:
  return optax.trace(decay=momentum)


def _adafactor(
    *,
    min_dim_size_to_factor: int = 32,
    decay_rate: float = 0.8,
    b2_cap: float = 0.999,
    clipping_threshold: float | None = None,
    momentum: float | None = 0.9,
    momentum_dtype: str = "bfloat16",
    eps: float = 1e-30,
) -> optax.GradientTransformation:
  """Adafactor as big_vision trains ViTs with it (arXiv 2106.04560, 3.4)."""

  def b2(step: ArrayLike, exponent: ArrayLike) -> jax.Array:
    return jnp.minimum(b2_cap, 1.0 - (step + 1.0) ** -jnp.asarray(exponent))

  parts = [
      optax.scale_by_factored_rms(
          factored=True,
          decay_rate=decay_rate,
          epsilon=eps,
          decay_rate_fn=b2,
          min_dim_size_to_factor=min_dim_size_to_factor,
      )
  ]
  if clipping_threshold is not None:
    parts.append(optax.clip_by_block_rms(clipping_threshold))
  if momentum is not None:
    parts.append(
        optax.ema(momentum, debias=False, accumulator_dtype=momentum_dtype)
    )
  return optax.chain(*parts)
