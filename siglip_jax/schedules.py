"""Learning-rate schedules: multipliers in [0, 1] over steps."""

from collections.abc import Callable
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError

Schedule = Callable[[Array], Float[Array, ""]]
_UNITS = ("steps", "examples", "percent")


def steps(
    name: str,
    durations: Mapping[str, float | None],
    total_steps: int,
    batch_size: int,
) -> int:
  """The duration `name`, given as name_steps, name_examples or name_percent.

  A percent is a fraction of `total_steps` in [0, 1], as in big_vision.

  Raises:
    UserError: given twice, or negative.
  """
  given = [u for u in _UNITS if durations.get(f"{name}_{u}") is not None]
  if not given:
    return 0
  if len(given) > 1:
    raise UserError(f"{name} is given as {given}: expected one of them.")
  value = durations[f"{name}_{given[0]}"]
  assert value is not None
  scale = {
      "steps": 1,
      "examples": 1 / batch_size,
      "percent": total_steps,
  }[given[0]]
  if value < 0 or (given[0] == "percent" and value > 1):
    raise UserError(
        f"{name}_{given[0]} must be positive, a percent at most 1; got {value}."
    )
  return round(value * scale)


def make(
    *,
    total_steps: int,
    batch_size: int,
    decay: str = "cosine",
    final: float = 0.0,
    timescale: int = 10_000,
    warmup_steps: int | None = None,
    warmup_examples: int | None = None,
    warmup_percent: float | None = None,
    cooldown_steps: int | None = None,
    cooldown_examples: int | None = None,
    cooldown_percent: float | None = None,
) -> Schedule:
  """A schedule: linear warm-up, decay, and linear cooldown to zero.

  Args:
    total_steps: where the schedule ends.
    batch_size: global, to count examples in.
    decay: "cosine", "linear", "rsqrt" or "none".
    final: the multiplier that cosine and linear end with.
    timescale: steps after which rsqrt has fallen to 1 / sqrt(2).
    warmup_steps: steps from 0 to 1; or in examples or percent.
    warmup_examples: see warmup_steps.
    warmup_percent: see warmup_steps.
    cooldown_steps: steps to 0 at the end; or in examples or percent.
    cooldown_examples: see cooldown_steps.
    cooldown_percent: see cooldown_steps.
  """
  durations = dict(
      warmup_steps=warmup_steps, warmup_examples=warmup_examples,
      warmup_percent=warmup_percent, cooldown_steps=cooldown_steps,
      cooldown_examples=cooldown_examples, cooldown_percent=cooldown_percent,
  )
  warmup = steps("warmup", durations, total_steps, batch_size)
  cooldown = steps("cooldown", durations, total_steps, batch_size)
  if decay not in ("cosine", "linear", "rsqrt", "none"):
    raise UserError(
        f"decay must be cosine, linear, rsqrt or none; got {decay!r}."
    )
  if warmup + cooldown > total_steps:
    raise UserError(
        f"Warm-up ({warmup} steps) and cooldown ({cooldown}) are longer than"
        f" the run ({total_steps})."
    )

  def schedule(step: Array) -> Float[Array, ""]:
    step = jnp.asarray(step, jnp.float32)
    progress = (step - warmup) / max(total_steps - warmup, 1)
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
      value *= jnp.minimum(step / warmup, 1.0)
    if cooldown:
      value *= jnp.clip((total_steps - step) / cooldown, 0.0, 1.0)
    return value

  return schedule
