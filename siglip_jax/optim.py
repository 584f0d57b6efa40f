"""Optimizers built from config, with rules over parameter names."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
import numpy as np
import optax

from siglip_jax import schedules
from siglip_jax import tree
from siglip_jax.config import schema
from siglip_jax.errors import UserError

Rules = Sequence[Sequence[Any]]  # pairs; lists, if read from JSON
_FROZEN_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """An optimizer of the trainable parameters.

  Frozen parameters have neither gradients nor optimizer state.

  Attributes:
    tx: transformation over the tree of the `trainable` names alone.
    trainable: names of the parameters that train.
    frozen: names of the parameters that do not train.
    frozen_dtype: dtype that frozen parameters are stored in.
    schedules: schedule of each rule that trains, by the rule's regex.
    lr: peak learning rate, before lr_mults.
    max_t: largest value of the parameter t after an update, or None.
  """

  tx: optax.GradientTransformation
  trainable: frozenset[str]
  frozen: frozenset[str]
  frozen_dtype: jnp.dtype
  schedules: Mapping[str, schedules.Schedule]
  lr: float
  max_t: np.float32 | None = None

  def lr_at(self, step: ArrayLike) -> dict[str, Float[Array, ""]]:
    """Returns learning rates at a step, before lr_mults, by schedule regex."""
    return {k: self.lr * f(step) for k, f in self.schedules.items()}

  def store(self, params: Mapping) -> dict:
    """Returns the parameters, with frozen ones cast to `frozen_dtype`."""
    flat = tree.flatten(params)
    frozen = {n: flat[n].astype(self.frozen_dtype) for n in self.frozen}
    return tree.unflatten(flat | frozen)

  def limit(self, params: Mapping) -> Mapping:
    """Returns updated trainable parameters, with t at most `max_t`."""
    if self.max_t is None or "t" not in params:
      return params
    return {**params, "t": jnp.minimum(params["t"], self.max_t)}


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
    max_temperature: float | None = None,
) -> Optimizer:
  """Makes an optimizer; the keyword-only arguments are those of config.optim.

  The update is p -= schedule * (lr * lr_mult * u + wd * wd_mult * p), with the
  optimizer's direction u. Weight decay follows the schedule and not the
  learning rate, as in big_vision.

  Args:
    params: the parameter tree, arrays or shapes.
    total_steps: length of the schedule, in steps.
    batch_size: global batch size, for durations in examples.
    num_examples: number of examples in an epoch, for durations in epochs.
    lr: peak learning rate.
    schedule: rules (regex, keyword arguments of `schedules.make`); None in
      place of the arguments freezes the parameters.
    name: name of the optimizer: adam, adafactor, lion or sgd.
    options: keyword arguments of the optimizer, e.g. dict(b2=0.95).
    wd: weight decay.
    lr_mults: rules (regex, factor on lr).
    wd_mults: rules (regex, factor on wd); by default only kernels decay.
    clip_norm: largest global norm of the trainable gradient; None does not
      clip.
    frozen_dtype: dtype that frozen parameters are stored in; "bfloat16" halves
      their memory and rounds them.
    max_temperature: largest temperature exp(t) after an update; CLIP has 100.
      None does not limit it, and a frozen t keeps its value.

  Raises:
    UserError: a name, option or value is invalid, a parameter matches no rule,
      a rule decides no parameter, or every parameter is frozen.
  """
  names = list(tree.flatten(params))
  _check_limits(clip_norm=clip_norm, max_temperature=max_temperature)
  _check_rates(
      {"lr": lr, "wd": wd}, {"lr_mults": lr_mults, "wd_mults": wd_mults}
  )
  rule_args = tree.assign(schedule, names, what="config.optim.schedule")
  lr_mult = tree.assign(lr_mults, names, what="config.optim.lr_mults")
  wd_mult = tree.assign(wd_mults, names, what="config.optim.wd_mults")
  by_regex = {}
  for regex, kwargs in schedule:
    if kwargs is not None:
      field = f"config.optim.schedule of {regex!r}"
      if not isinstance(kwargs, Mapping):
        raise UserError(
            f"{field} must be arguments such as dict(decay='cosine'), or None"
            f" to freeze; got {kwargs!r}."
        )
      schema.check(field, kwargs, schedules.make)
      by_regex[regex] = schedules.make(
          total_steps, batch_size, num_examples, **kwargs
      )
  regex_of = tree.assign(
      [(regex, regex) for regex, _ in schedule], names, what="schedule"
  )
  trainable = frozenset(n for n in names if rule_args[n] is not None)
  if not trainable:
    raise UserError("config.optim.schedule freezes everything: nothing to do.")
  run_args = (total_steps, batch_size, num_examples)
  delays = {n: schedules.delayed(*run_args, **rule_args[n]) for n in trainable}
  parts = [_zero_until(delays)] if any(delays.values()) else []
  if clip_norm is not None:
    parts.append(optax.clip_by_global_norm(clip_norm))
  parts += [
      _direction(name, options or {}),
      _apply_rates(
          lr={n: lr * lr_mult[n] for n in trainable},
          wd={n: wd * wd_mult[n] for n in trainable},
          rate={n: by_regex[regex_of[n]] for n in trainable},
      ),
  ]
  return Optimizer(
      tx=optax.chain(*parts),
      trainable=trainable,
      frozen=frozenset(names) - trainable,
      frozen_dtype=_storage(frozen_dtype),
      schedules=by_regex,
      lr=lr,
      max_t=_log_below(max_temperature) if max_temperature else None,
  )


def _check_limits(**limits: float | None) -> None:
  for name, limit in limits.items():
    if limit is not None and not 0 < limit < math.inf:
      raise UserError(
          f"config.optim.{name} must be positive, or None for no limit; got"
          f" {limit}."
      )


def _check_rates(rates: Mapping[str, Any], mults: Mapping[str, Rules]) -> None:
  """Checks that rates, and the factors on them, are numbers from 0 up."""
  rates = dict(rates)
  for name, rules in mults.items():
    rates |= {f"{name} of {regex!r}": factor for regex, factor in rules}
  for name, rate in rates.items():
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 0 <= rate < math.inf:
      raise UserError(
          f"config.optim.{name} must be a number from 0 up; got {rate!r}."
      )


def _log_below(temperature: float) -> np.float32:
  """Returns the largest float32 that is not above the logarithm."""
  exact = math.log(temperature)
  rounded = np.float32(exact)
  if float(rounded) > exact:
    rounded = np.nextafter(rounded, np.float32(-np.inf))
  return rounded


def _storage(dtype: str) -> jnp.dtype:
  if dtype not in _FROZEN_DTYPES:
    raise UserError(
        f"config.optim.frozen_dtype must be one of {', '.join(_FROZEN_DTYPES)};"
        f" got {dtype!r}."
    )
  return jnp.dtype(dtype)


def _zero_until(delays: Mapping[str, int]) -> optax.GradientTransformation:
  """Zeroes the gradient of each parameter until its delay, in steps, is over.

  Until then the other parameters train exactly as if the delayed ones were
  frozen, also with gradient clipping.
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
  """Applies each parameter's learning rate, weight decay and schedule."""

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
  """Returns -multiplier * direction, or -0.0 if the multiplier is 0.

  Adding -0.0 changes no bit of a parameter: x + -0.0 is x.
  """
  return jnp.where(multiplier == 0, -0.0, -multiplier * direction)


def _direction(name: str, options: Mapping) -> optax.GradientTransformation:
  if name not in DIRECTIONS:
    raise UserError(
        f"config.optim.name must be one of {', '.join(DIRECTIONS)}; got"
        f" {name!r}: {schema.suggest(name, DIRECTIONS)}"
    )
  field = f"config.optim.options of {name}"
  schema.check(field, options, DIRECTIONS[name])
  for key, value in options.items():
    if key in _AVERAGES and value is not None and not 0 <= value < 1:
      raise UserError(f"{field}: {key} must be in [0, 1); got {value}.")
    if key in ("mu_dtype", "momentum_dtype"):
      _check_moments(f"{field}: {key}", value)
    if key in _POSITIVE and value is not None and not value > 0:
      raise UserError(f"{field}: {key} must be positive; got {value}.")
  return DIRECTIONS[name](**options)


# Options that weigh the past in a moving average.
_AVERAGES = ("b1", "b2", "b2_cap", "decay_rate", "momentum")
_POSITIVE = ("eps", "clipping_threshold", "min_dim_size_to_factor")


def _check_moments(name: str, dtype: str | None) -> None:
  # Small moments are 0 in float16, whose smallest number is 6e-8.
  if dtype not in (None, "float32", "bfloat16"):
    raise UserError(f"{name} must be float32 or bfloat16; got {dtype!r}.")


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
  """Returns Adafactor as big_vision uses it for ViTs.

  Source: arXiv 2106.04560, section 3.4.
  """

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


# The registry of directions that config.optim can name.
DIRECTIONS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": _adam,
    "adafactor": _adafactor,
    "lion": _lion,
    "sgd": _sgd,
}
