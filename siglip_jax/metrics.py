"""Metrics on disk, one step late, and traces of chosen steps."""

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
  """Appends to metrics.jsonl and to TensorBoard events.

  Args:
    workdir: the run's folder, which exists.
    write: True on process 0 only; elsewhere nothing is opened.
  """

  def __init__(self, workdir: str | Path, *, write: bool):
    self._file = self._board = None
    if write:
      self._file = (Path(workdir) / _FILE).open("a", encoding="utf-8")
      self._board = tensorboardX.SummaryWriter(str(workdir))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line at once; what is not finite is null in JSON."""
    if self._file is None or self._board is None or not values:
      return
    line: dict[str, Any] = {"step": step}
    for name, value in values.items():
      line[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    # A mounted bucket may keep what it has not been told to keep on this
    # machine, which may be taken away.
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Flushes and closes both."""
    if self._file is not None and self._board is not None:
      self._file.close()
      self._board.close()


def read(workdir: str | Path) -> list[dict[str, Any]]:
  """All whole lines of metrics.jsonl; none if there is no file."""
  path = Path(workdir) / _FILE
  if not path.exists():
    return []
  found = map(_parse, path.read_text("utf-8", errors="replace").splitlines())
  return [line for line in found if line is not None]


def rewind(workdir: str | Path, step: int, *, scores: bool = True) -> int:
  """Drops lines after `step`, and a line that a crash cut short.

  The file is replaced in one move, so a crash leaves the old or the new one.

  Args:
    workdir: of the run.
    step: from which the run goes on.
    scores: keep those of evaluations at `step`; False if they are made again.

  Returns:
    How many lines were dropped, the cut one included.
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
  """A line's object, None for anything that is not a whole one."""
  try:
    line = json.loads(text)
  except json.JSONDecodeError:
    return None
  return line if isinstance(line, dict) and "step" in line else None


def host_memory() -> dict[str, float]:
  """Metrics of this process's memory, and of all the host's as a share."""
  return {
      "host/memory_bytes": float(psutil.Process().memory_info().rss),
      "host/memory_used": psutil.virtual_memory().percent / 100,
  }


def phase_shares(seconds: Mapping[str, float], steps: int) -> dict[str, float]:
  """Metrics of what `Phases.take` returned, over so many steps.

  `data/wait_share` is the part of the steps' time in which nothing but the next
  batch was waited for: the input pipeline's share.
  """
  waited = seconds.get("data", 0.0)
  stepped = sum(seconds.get(k, 0.0) for k in ("first_step", "step")) + waited
  found = {"train/step_seconds": stepped / steps}
  if stepped > 0:
    found["data/wait_share"] = waited / stepped
  if "save" in seconds:
    found["ckpt/save_seconds"] = seconds["save"]
  return found


class Delayed:
  """Metrics of steps, read when the next step is under way.

  Reading a step's metrics waits for it, so a device that has nothing else to do
  would wait for the host. This holds what is not read yet.

  Args:
    check: (step, metrics) of a step that is computed; may end the run.
    log: (step, metrics) of a step to be logged, after `check`.
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
    """Whether a step was dispatched."""
    return bool(self._newest)

  def follow(self, metrics: Mapping[str, jax.Array]) -> None:
    """Tells of a dispatched step; waits for the step before it and logs that.

    One step runs while the next is prepared, and no more: so a phase is no
    longer than a step, and a batch is not held for long.
    """
    jax.block_until_ready(self._newest)
    self._newest = metrics
    self._flush()

  def put(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Leaves the metrics of the newest step to be logged once computed."""
    self._pending = step, metrics

  def settle(self, step: int) -> None:
    """Waits for the newest step and checks it, so no bad state is saved."""
    if not self._flush() and self._newest:
      self._check(step, _floats(self._newest))

  def _flush(self) -> bool:
    """Logs what is pending; returns whether anything was."""
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
  """Examples per second since the last reading, without pauses."""

  def __init__(self):
    self._examples, self._since = 0, time.monotonic()

  def start(self, examples: int) -> None:
    """Starts counting from `examples`, those of earlier runs."""
    self._examples, self._since = examples, time.monotonic()

  def rate(self, examples: int) -> float:
    """Examples per second from the last reading to now.

    Args:
      examples: the running total.
    """
    now = time.monotonic()
    found = (examples - self._examples) / max(now - self._since, 1e-9)
    self._examples, self._since = examples, now
    return found

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Time inside (evals, checkpoints) does not count. Pauses do not nest."""
    begin = time.monotonic()
    try:
      yield
    finally:
      self._since += time.monotonic() - begin


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
