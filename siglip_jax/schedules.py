"""Learning-rate schedules: multipliers in [0, 1] over steps.

A rule with a delay holds its parameters still for a while and then unlocks
them: exactly 0 until the delay is over, and the warm-up begins there.
"""

from collections.abc import Callable
from collections.abc import Mapping

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError

Schedule = Callable[[ArrayLike], Float[Array, ""]]
_UNITS = ("steps", "examples", "percent", "epochs")


def steps(
    name: str,
    durations: Mapping[str, float | None],
    total_steps: int,
    batch_size: int,
    num_examples: int | None = None,
) -> int:
  """The duration `name` in steps, rounded to the nearest.

  Args:
    name: looked up as name_steps, name_examples, name_percent or name_epochs.
    durations: where to look; None counts as not given.
    total_steps: what a percent, a fraction in [0, 1], is a fraction of.
    batch_size: global.
    num_examples: in an epoch.

  Raises:
    UserError: not given exactly once, out of range, or epochs of unknown size.
  """
  given = [u for u in _UNITS if durations.get(f"{name}_{u}") is not None]
  if len(given) != 1:
    came = " and ".join(f"{name}_{u}" for u in given) or "none"
    raise UserError(
        f"{name} must be given once, as one of"
        f" {', '.join(f'{name}_{u}' for u in _UNITS)}; got {came}."
    )
  unit = given[0]
  value = durations[f"{name}_{unit}"]
  assert value is not None
  # Not `value < 0`, which lets NaN pass.
  if not 0 <= value <= (1 if unit == "percent" else float("inf")):
    raise UserError(
        f"{name}_{unit} must be"
        f" {'in [0, 1]' if unit == 'percent' else 'at least 0'}; got {value}."
    )
  if unit == "epochs" and not num_examples:
    raise UserError(
        f"{name}_epochs needs the number of examples in an epoch, which is"
        f" unknown without the data; use {name}_steps here."
    )
  steps_per_unit = {
      "steps": 1,
      "examples": 1 / batch_size,
      "percent": total_steps,
      "epochs": (num_examples or 0) / batch_size,
  }
  return round(value * steps_per_unit[unit])


def make(
    total_steps: int,
    batch_size: int,
    num_examples: int | None = None,
    *,
    decay: str = "cosine",
    final: float = 0.0,
    timescale: int = 10_000,
    delay_steps: int | None = None,
    delay_examples: int | None = None,
    delay_percent: float | None = None,
    delay_epochs: float | None = None,
    warmup_steps: int | None = None,
    warmup_examples: int | None = None,
    warmup_percent: float | None = None,
    warmup_epochs: float | None = None,
    cooldown_steps: int | None = None,
    cooldown_examples: int | None = None,
    cooldown_percent: float | None = None,
    cooldown_epochs: float | None = None,
) -> Schedule:
  """A schedule: perhaps a delay at 0, warm-up, decay, and cooldown to 0.

  Warm-up and cooldown are linear.

  Args:
    total_steps: where the schedule ends.
    batch_size: global, to count examples in.
    num_examples: in an epoch, to count epochs in.
    decay: "cosine", "linear", "rsqrt" or "none".
    final: the multiplier that cosine and linear end with.
    timescale: steps after which rsqrt has fallen to 1 / sqrt(2).
    delay_steps: steps at 0 before the warm-up; or in another unit of `steps`.
    delay_examples: see delay_steps.
    delay_percent: see delay_steps.
    delay_epochs: see delay_steps.
    warmup_steps: steps from 0 to 1; or in another unit of `steps`.
    warmup_examples: see warmup_steps.
    warmup_percent: see warmup_steps.
    warmup_epochs: see warmup_steps.
    cooldown_steps: steps to 0 at the end; or in another unit of `steps`.
    cooldown_examples: see cooldown_steps.
    cooldown_percent: see cooldown_steps.
    cooldown_epochs: see cooldown_steps.

  Raises:
    UserError: an unknown decay, or durations that do not fit the run.
  """
  delay = delayed(
      total_steps,
      batch_size,
      num_examples,
      delay_steps=delay_steps,
      delay_examples=delay_examples,
      delay_percent=delay_percent,
      delay_epochs=delay_epochs,
  )
  warmup = _optional(
      "warmup",
      dict(
          warmup_steps=warmup_steps,
          warmup_examples=warmup_examples,
          warmup_percent=warmup_percent,
          warmup_epochs=warmup_epochs,
      ),
      total_steps,
      batch_size,
      num_examples,
  )
  cooldown = _optional(
      "cooldown",
      dict(
          cooldown_steps=cooldown_steps,
          cooldown_examples=cooldown_examples,
          cooldown_percent=cooldown_percent,
          cooldown_epochs=cooldown_epochs,
      ),
      total_steps,
      batch_size,
      num_examples,
  )
  if decay not in ("cosine", "linear", "rsqrt", "none"):
    raise UserError(
        f"decay must be cosine, linear, rsqrt or none; got {decay!r}."
    )
  if warmup + cooldown > total_steps - delay:
    raise UserError(
        f"Warm-up ({warmup} steps) and cooldown ({cooldown}) are longer than"
        f" what the delay ({delay}) leaves of the run ({total_steps})."
    )

  def schedule(step: ArrayLike) -> Float[Array, ""]:
    # Before the delay is over, all that follows is clipped to its start.
    step = jnp.asarray(step, jnp.float32) - delay
    progress = (step - warmup) / max(total_steps - delay - warmup, 1)
    progress = jnp.clip(progress, 0.0, 1.0)
    if decay == "cosine":
      value = final + (1 - final) * (1 + jnp.cos(jnp.pi * progress)) / 2
    elif decay == "linear":
      value = final + (1 - final) * (1 - progress)
    elif decay == "rsqrt":
      after = jnp.maximum(step - warmup, 0.0)
      value = jnp.sqrt(timescale / (timescale + after))
    else:
      value = jnp.float32(1)
    if warmup:
      value *= jnp.clip(step / warmup, 0.0, 1.0)
    if cooldown:
      value *= jnp.clip((total_steps - delay - step) / cooldown, 0.0, 1.0)
    return jnp.where(step < 0, 0.0, value) if delay else value

  return schedule


def delayed(
    total_steps: int,
    batch_size: int,
    num_examples: int | None = None,
    **options,
) -> int:
  """The delay in steps of a schedule that `make` would make."""
  given = {f"delay_{u}": options.get(f"delay_{u}") for u in _UNITS}
  return _optional("delay", given, total_steps, batch_size, num_examples)


def _optional(name: str, durations: Mapping[str, float | None], *run) -> int:
  """`steps`, or 0 if the duration is not given at all."""
  if all(value is None for value in durations.values()):
    return 0
  return steps(name, durations, *run)
