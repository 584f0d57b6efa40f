"""Decisions that are made from the lines of metrics.jsonl."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from siglip_jax.config.options import lower_is_better
from siglip_jax.errors import UserError

MODES = ("", "min", "max")
History = Sequence[Mapping[str, Any]]


def sign(metric: str, mode: str = "") -> int:
  """Returns 1 if a larger value of a metric is better, else -1.

  Args:
    metric: name of the metric.
    mode: "max", "min", or "" to tell by the name, as `lower_is_better` does.

  Raises:
    UserError: the mode is unknown.
  """
  if mode not in MODES:
    raise UserError(
        f"The mode of {metric} must be one of 'min', 'max' and '' (by its"
        f" name); got {mode!r}."
    )
  return -1 if lower_is_better(metric, mode) else 1


def best_step(
    history: History, metric: str, mode: str, steps: Iterable[int]
) -> int | None:
  """Returns the step with the best value, the earliest among equal ones.

  Args:
    history: parsed lines of metrics.jsonl.
    metric: name of the metric.
    mode: "min", "max", or "" to tell by the name, as `sign`.
    steps: steps to choose from.

  Returns:
    The step, or None if none of the steps has a finite value.
  """
  factor, allowed = sign(metric, mode), set(steps)
  best, chosen = -math.inf, None
  for step, value in _values(history, metric):
    if step in allowed and factor * value > best:
      best, chosen = factor * value, step
  return chosen


def stopped(
    history: History,
    *,
    metric: str,
    patience: int,
    mode: str = "",
    min_delta: float = 0.0,
) -> int | None:
  """Returns the step at which a metric has stopped to improve.

  It depends on the history alone, so a restarted run stops at the same step.

  Args:
    history: parsed lines of metrics.jsonl.
    metric: name of the metric; steps without it do not count.
    patience: number of evaluations in a row without an improvement.
    mode: "min", "max", or "" to tell by the name, as `sign`.
    min_delta: a value is an improvement if it is better by more than this than
      the best improvement before it. The first finite value is one.

  Returns:
    The step of the last of these evaluations, or None if there are fewer. A
    value that is not finite is an evaluation without an improvement.
  """
  factor, best, waited = sign(metric, mode), -math.inf, 0
  for step, value in _values(history, metric):
    if factor * value > best + min_delta:
      best, waited = factor * value, 0
    else:
      waited += 1
    if waited >= patience:
      return step
  return None


def _values(history: History, metric: str) -> list[tuple[int, float]]:
  """Returns steps in order with their values; null is NaN.

  The last line counts if several have the same step.
  """
  values = {
      line["step"]: math.nan if line[metric] is None else line[metric]
      for line in history
      if metric in line
  }
  return sorted(values.items())
