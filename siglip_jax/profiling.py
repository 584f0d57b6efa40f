"""Traces of chosen steps, for TensorBoard or Perfetto."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax


class Profiler:
  """Traces steps into workdir/profile; config.profile is its arguments.

  Args:
    workdir: of the run.
    steps: which ones, as numbered in metrics.jsonl; neighbours share a trace.
  """

  def __init__(self, workdir: str | Path, *, steps: Sequence[int] = ()):
    self._folder = str(Path(workdir) / "profile")
    self._steps, self._on = frozenset(steps), False

  def before(self, step: int, state: Any) -> None:
    """Starts or ends a trace; call it before the step that follows `step`."""
    wanted = step + 1 in self._steps
    if wanted == self._on:
      return
    jax.block_until_ready(state)  # Else an earlier step would be in the trace.
    if wanted:
      jax.profiler.start_trace(self._folder)
    else:
      jax.profiler.stop_trace()
    self._on = wanted

  def close(self, state: Any) -> None:
    """Ends a trace that the run's end cuts short."""
    if self._on:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      self._on = False
