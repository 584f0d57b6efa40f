"""Numbers of the training loop: read one step late, and per second."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import time

import jax
import psutil


def host_memory() -> dict[str, float]:
  """Returns this process's memory in bytes and the host's share in use."""
  return {
      "host/memory_bytes": float(psutil.Process().memory_info().rss),
      "host/memory_used": psutil.virtual_memory().percent / 100,
  }


def phase_shares(seconds: Mapping[str, float], steps: int) -> dict[str, float]:
  """Returns metrics of the time spent in each phase.

  `data/wait_share` is the share of the steps' time spent waiting for nothing
  but the next batch: the input pipeline's share.

  Args:
    seconds: phase -> seconds, as `Phases.take` returns them.
    steps: number of steps in that time.
  """
  waited = seconds.get("data", 0.0)
  stepped = sum(seconds.get(k, 0.0) for k in ("first_step", "step")) + waited
  values = {"train/step_seconds": stepped / steps}
  if stepped > 0:
    values["data/wait_share"] = waited / stepped
  if "save" in seconds:
    values["ckpt/save_seconds"] = seconds["save"]
  return values


class Delayed:
  """Metrics of steps, read while the next step runs.

  Reading a step's metrics waits for the step. If the next step were dispatched
  only then, the device would be idle and wait for the host. This class holds
  the metrics that are not read yet.

  Args:
    check: called with (step, metrics) of a computed step; may end the run.
    log: called with (step, metrics) of a step to log, after `check`.
  """

  def __init__(
      self,
      check: Callable[[int, dict[str, float]], None],
      log: Callable[[int, dict[str, float]], None],
  ):
    self._check, self._log = check, log
    self._newest: Mapping[str, jax.Array] = {}
    self._pending: tuple[int, Mapping[str, jax.Array]] | None = None

  @property
  def any(self) -> bool:
    """Whether any step has been dispatched."""
    return bool(self._newest)

  def follow(self, metrics: Mapping[str, jax.Array]) -> None:
    """Takes a dispatched step; waits for the step before it and logs that one.

    Only one step runs while the next is prepared. So a phase takes no longer
    than a step, and no batch is held for long.
    """
    jax.block_until_ready(self._newest)
    self._newest = metrics
    self._flush()

  def put(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Marks the newest step's metrics for logging once they are computed."""
    self._pending = step, metrics

  def settle(self, step: int) -> None:
    """Waits for the newest step and checks it before its state is saved."""
    if not self._flush() and self._newest:
      self._check(step, _floats(self._newest))

  def _flush(self) -> bool:
    """Logs the pending metrics; returns whether there were any."""
    if self._pending is None:
      return False
    step, metrics = self._pending
    self._pending = None
    values = _floats(metrics)
    self._check(step, values)
    self._log(step, values)
    return True


def _floats(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
  return {k: float(v) for k, v in jax.device_get(metrics).items()}


class Throughput:
  """Measures examples per second since the last reading, without pauses."""

  def __init__(self):
    self._examples, self._since = 0, time.monotonic()

  def start(self, examples: int) -> None:
    """Starts counting from `examples`, the number that earlier runs saw."""
    self._examples, self._since = examples, time.monotonic()

  def rate(self, examples: int) -> float:
    """Returns the examples per second from the last reading to now.

    Args:
      examples: running total of examples.
    """
    now = time.monotonic()
    speed = (examples - self._examples) / max(now - self._since, 1e-9)
    self._examples, self._since = examples, now
    return speed

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time inside (evals, checkpoints). Pauses do not nest."""
    begin = time.monotonic()
    try:
      yield
    finally:
      self._since += time.monotonic() - begin
