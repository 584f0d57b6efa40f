"""Metrics on disk, and examples per second."""

import contextlib
import json
import math
import os
from pathlib import Path
import time
from typing import Any

import tensorboardX

_FILE = "metrics.jsonl"


class MetricWriter:
  """Appends to metrics.jsonl and to TensorBoard events.

  Args:
    workdir: the run's folder.
    write: False on all processes but one.
  """

  def __init__(self, workdir: str | Path, *, write: bool = True):
    self._file = self._board = None
    if write:
      self._file = (Path(workdir) / _FILE).open("a", encoding="utf-8")
      self._board = tensorboardX.SummaryWriter(str(workdir))

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line; what is not finite is null in JSON."""
    if self._file is None or self._board is None or not values:
      return
    line: dict[str, Any] = {"step": step}
    for name, value in values.items():
      line[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Flushes and closes both."""
    if self._file is not None and self._board is not None:
      self._file.close()
      self._board.close()


def read(workdir: str | Path) -> list[dict[str, Any]]:
  """All whole lines of metrics.jsonl."""
  path = Path(workdir) / _FILE
  if not path.exists():
    return []
  lines = []
  for text in path.read_text("utf-8", errors="replace").splitlines():
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:
      continue  # a crash cut it short
  return lines


def rewind(workdir: str | Path, step: int) -> int:
  """Drops lines after `step`, and a line a crash cut short.

  Returns:
    How many lines were dropped.
  """
  path = Path(workdir) / _FILE
  if not path.exists():
    return 0
  before = path.read_text("utf-8", errors="replace").splitlines()
  kept = [line for line in read(workdir) if line["step"] <= step]
  part = path.with_suffix(".part")
  part.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
  os.replace(part, path)
  return len(before) - len(kept)


class Throughput:
  """Examples per second since the last reading, without pauses."""

  def __init__(self):
    self._examples, self._since = 0, 0.0

  def start(self, examples: int) -> None:
    """Starts counting from `examples`."""
    self._examples, self._since = examples, time.monotonic()

  def rate(self, examples: int) -> float:
    """Examples per second from the last reading to now."""
    now = time.monotonic()
    found = (examples - self._examples) / max(now - self._since, 1e-9)
    self._examples, self._since = examples, now
    return found

  @contextlib.contextmanager
  def pause(self):
    """Time inside does not count."""
    begin = time.monotonic()
    yield
    self._since += time.monotonic() - begin
