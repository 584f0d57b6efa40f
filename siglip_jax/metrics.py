"""Metrics on disk, and examples per second."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import math
import os
from pathlib import Path
import time
from typing import Any

import psutil
import tensorboardX

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
  part = path.with_suffix(".part")
  with part.open("w", encoding="utf-8") as f:
    f.writelines(json.dumps(line) + "\n" for line in kept)
    f.flush()
    os.fsync(f.fileno())
  os.replace(part, path)
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
