"""Metrics, written to disk one step late, and traces of chosen steps."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import math
import os
from pathlib import Path
import time
from typing import Any

import jax
import psutil
import tensorboardX

from siglip_jax import files

_FILE = "metrics.jsonl"


class MetricWriter:
  """Appends metrics to metrics.jsonl and to TensorBoard events.

  Args:
    workdir: the run's folder, which must exist.
    write: True on process 0 only; other processes open and write no files.
  """

  def __init__(self, workdir: str | Path, *, write: bool):
    self._file = self._board = None
    if write:
      self._file = (Path(workdir) / _FILE).open("a", encoding="utf-8")
      self._board = tensorboardX.SummaryWriter(str(workdir))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line at once; non-finite values become null in the JSON."""
    if self._file is None or self._board is None or not values:
      return
    line: dict[str, Any] = {"step": step}
    for name, value in values.items():
      line[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    # Without fsync, a mounted bucket may hold the line on this machine only,
    # and the machine may be taken away.
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Flushes and closes both files."""
    if self._file is not None and self._board is not None:
      self._file.close()
      self._board.close()


def read(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns all whole lines of metrics.jsonl; none if the file is missing."""
  path = Path(workdir) / _FILE
  if not path.exists():
    return []
  lines = map(_parse, path.read_text("utf-8", errors="replace").splitlines())
  return [line for line in lines if line is not None]


def rewind(workdir: str | Path, step: int, *, scores: bool = True) -> int:
  """Drops lines after `step`, and a line that a crash cut short.

  The file is replaced in one move, so a crash leaves the old or the new file.

  Args:
    workdir: the run's folder.
    step: step from which the run continues.
    scores: whether to keep the scores of evaluations at `step`; False if those
      evaluations will run again.

  Returns:
    The number of dropped lines, including a line cut short.
  """
  path = Path(workdir) / _FILE
  if not path.exists():
    return 0
  before = path.read_text("utf-8", errors="replace").splitlines()
  kept = [
      line
      for line in read(workdir)
      if line["step"] < step
      or (line["step"] == step and (scores or "train/loss" in line))
  ]
  with files.replacing(path) as partial:
    with partial.open("w", encoding="utf-8") as f:
      f.writelines(json.dumps(line) + "\n" for line in kept)
  return len(before) - len(kept)


def _parse(text: str) -> dict[str, Any] | None:
  """Returns the object on a line, or None if the line is not a whole one."""
  try:
    line = json.loads(text)
  except json.JSONDecodeError:
    return None
  return line if isinstance(line, dict) and "step" in line else None


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
