"""Learning-rate schedules: multipliers in [0, 1] over steps.

A schedule with a delay leaves its parameters unchanged at first: it is exactly
0 until the delay is over, and its warm-up starts then.
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
  """Returns the duration `name` in steps, rounded to the nearest step.

  Args:
    name: prefix of the keys name_steps, name_examples, name_percent and
      name_epochs.
    durations: durations by key; None counts as absent. A percent is a fraction
      of total_steps in [0, 1].
    total_steps: length of the run, in steps.
    batch_size: global batch size.
    num_examples: number of examples in an epoch, or None if unknown.

  Raises:
    UserError: not exactly one key is present, its value is out of range, or it
      counts epochs and num_examples is unknown.
  """
  units = [u for u in _UNITS if durations.get(f"{name}_{u}") is not None]
  if len(units) != 1:
    keys = " and ".join(f"{name}_{u}" for u in units) or "none"
    raise UserError(
        f"{name} must be given once, as one of"
        f" {', '.join(f'{name}_{u}' for u in _UNITS)}; got {keys}."
    )
  unit = units[0]
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
  """Returns a schedule: delay at 0, warm-up, decay and cooldown to 0.

  Warm-up and cooldown are linear. Delay, warm-up and cooldown are optional, and
  each may be given in at most one unit.

  Args:
    total_steps: length of the run, in steps.
    batch_size: global batch size, for durations in examples.
    num_examples: number of examples in an epoch, for durations in epochs.
    decay: "cosine", "linear", "rsqrt" or "none".
    final: the multiplier that cosine and linear decay end at.
    timescale: number of steps in which rsqrt decay falls to 1 / sqrt(2).
    delay_steps: steps at 0 before the warm-up.
    delay_examples: delay_steps in examples.
    delay_percent: delay_steps as a fraction of total_steps.
    delay_epochs: delay_steps in epochs.
    warmup_steps: steps of the warm-up from 0 to 1.
    warmup_examples: warmup_steps in examples.
    warmup_percent: warmup_steps as a fraction of total_steps.
    warmup_epochs: warmup_steps in epochs.
    cooldown_steps: steps of the cooldown to 0, which ends the run.
    cooldown_examples: cooldown_steps in examples.
    cooldown_percent: cooldown_steps as a fraction of total_steps.
    cooldown_epochs: cooldown_steps in epochs.

  Raises:
    UserError: the decay is unknown, a duration is invalid, or the durations are
      longer than the run.
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
  if timescale < 1:
    raise UserError(f"timescale must be at least 1 step; got {timescale}.")
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
    # Negative during the delay; the clips below then hold the initial values.
    step = jnp.asarray(step, jnp.float32) - delay
    progress = (step - warmup) / max(total_steps - delay - warmup, 1)
    progress = jnp.clip(progress, 0.0, 1.0)
    if decay == "cosine":
      value = final + (1 - final) * (1 + jnp.cos(jnp.pi * progress)) / 2
    elif decay == "linear":
      value = final + (1 - final) * (1 - progress)
    elif decay == "rsqrt":
      decay_steps = jnp.maximum(step - warmup, 0.0)
      value = jnp.sqrt(timescale / (timescale + decay_steps))
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
  """Returns the delay, in steps, of the schedule that `make` returns."""
  durations = {f"delay_{u}": options.get(f"delay_{u}") for u in _UNITS}
  return _optional("delay", durations, total_steps, batch_size, num_examples)


def _optional(name: str, durations: Mapping[str, float | None], *run) -> int:
  """Returns the duration as `steps` does, or 0 if it is absent."""
  if all(value is None for value in durations.values()):
    return 0
  return steps(name, durations, *run)
