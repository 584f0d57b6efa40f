"""Traces of chosen steps."""

from collections.abc import Sequence
import importlib.util
from pathlib import Path
from typing import Any

from absl import logging
import jax


class Profiler:
  """Traces steps into workdir/profile; config.profile holds the arguments.

  Args:
    workdir: the run's folder.
    steps: steps to trace, as numbered in metrics.jsonl; consecutive steps share
      a trace.
  """

  def __init__(self, workdir: str | Path, *, steps: Sequence[int] = ()):
    self._folder = str(Path(workdir) / "profile")
    self._steps, self._on = frozenset(steps), False
    if self._steps and crashes():
      self._steps = frozenset()
      logging.warning(
          "config.profile.steps are not traced: libtpu is installed, this"
          " machine has no TPU, and libtpu's tracing would crash the process."
          " Set JAX_PLATFORMS=%s to leave libtpu out.",
          jax.default_backend(),
      )

  def before(self, step: int, state: Any) -> None:
    """Starts or ends a trace; call it before the step that follows `step`."""
    traced = step + 1 in self._steps
    if traced == self._on:
      return
    jax.block_until_ready(state)  # Keeps earlier steps out of the trace.
    if traced:
      jax.profiler.start_trace(self._folder)
    else:
      jax.profiler.stop_trace()
    self._on = traced

  def close(self, state: Any) -> None:
    """Ends a trace that is still open when the run ends."""
    if self._on:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      self._on = False


def crashes() -> bool:
  """Whether a trace would crash this process.

  JAX loads libtpu where it is installed, unless JAX_PLATFORMS says otherwise.
  Without a TPU, a libtpu of another version than JAX's crashes in
  `start_trace`.
  """
  config: Any = jax.config  # its attributes are made at run time
  platforms = (config.jax_platforms or "tpu").split(",")
  return (
      "tpu" in platforms
      and jax.default_backend() != "tpu"
      and importlib.util.find_spec("libtpu") is not None
  )
