"""Processes to kill, and the folder of their run as they leave it."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import os
from pathlib import Path
import random
import signal
import time
from typing import Any

from siglip_jax import metrics
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN

_LOOK_SECONDS = 0.2  # between two looks after a watcher


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
  """One kill, and the state of the run after it.

  Attributes:
    number: the signal.
    during: the intended moment: step, checkpoint, evaluation or watch.
    step: the last step logged before the kill.
    resumed: the step that the next start resumes from.
    hit: whether work of the intended kind was left undone.
    statuses: statuses of all processes.
  """

  number: signal.Signals
  during: str
  step: int
  resumed: int
  hit: bool
  statuses: tuple[int, ...]

  def right(self) -> bool:
    """Whether all processes ended as they should."""
    allowed = {TRY_AGAIN, -self.number}
    if self.number == signal.SIGTERM:
      allowed |= {DONE}  # It came after the last step.
    return set(self.statuses) <= allowed


class Run:
  """A run's folder, as it is on disk now.

  Args:
    workdir: the folder.
    evaluators: names of the evaluators; at a step that is a multiple of `evals`
      all of them are due.
    evals: number of steps between evaluations.
  """

  def __init__(self, workdir: Path, evaluators: Sequence[str], *, evals: int):
    self.workdir, self.evals = workdir, evals
    self._evaluators = set(evaluators)

  def starts(self) -> int:
    """Returns the number of starts, each of which adds a line."""
    path = self.workdir / "starts.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0

  def steps(self) -> set[int]:
    """Returns the steps of whole checkpoints."""
    paths = (self.workdir / "checkpoints").glob("*")
    return {int(p.name) for p in paths if p.name.isdigit()}

  def saved(self) -> int:
    """Returns the newest checkpoint's step, or 0 if there is none."""
    return max(self.steps(), default=0)

  def logged(self) -> int:
    """Returns the newest step that is logged, or 0."""
    lines = (line for line in reversed(self._tail()) if "train/loss" in line)
    return next((line["step"] for line in lines), 0)

  def scores(self) -> int:
    """Returns the number of lines of evaluations."""
    return sum("train/loss" not in x for x in metrics.read(self.workdir))

  def waiting(self, step: int) -> bool:
    """Whether a step is saved and not all of its evaluations are on file."""
    done = metrics.evaluated(metrics.read(self.workdir), step)
    return step in self.steps() and not self._evaluators <= done

  def at(self, during: str, step: int) -> bool:
    """Whether the moment of a kill has come, at `step` or after it."""
    logged = self.logged()
    if logged < step:
      return False
    if during == "checkpoint":
      return any((self.workdir / "checkpoints").glob("*-tmp*"))
    if during == "evaluation":
      return self.evaluating(logged)
    return True

  def evaluating(self, step: int) -> bool:
    """Whether a step is due for evaluations, and not all are on file."""
    return step % self.evals == 0 and self.waiting(step)

  def evaluation_seconds(self) -> float:
    """Returns the time of the shortest of the last evaluations, or 0."""
    seconds = [
        value
        for line in self._tail()
        for name, value in line.items()
        if name.startswith("eval/") and name.endswith("/seconds")
    ]
    return min(seconds, default=0.0)

  def _tail(self) -> list[dict[str, Any]]:
    """Returns the last whole lines of metrics.jsonl."""
    path = self.workdir / "metrics.jsonl"
    data = path.read_bytes()[-20_000:] if path.exists() else b""
    lines = []
    for text in data.split(b"\n"):
      try:
        lines.append(json.loads(text))
      except ValueError:
        continue  # cut off here, or being written
    return lines


class Watcher:
  """A process that evaluates the run's checkpoints, killed at random times.

  Args:
    start: starts the process.
    run: the run.
    most: the largest number of kills.
    source: the source of random numbers.

  Attributes:
    kills: the kills so far.
  """

  def __init__(
      self, start: Callable[[], Any], run: Run, most: int, source: random.Random
  ):
    self.kills: list[Kill] = []
    self._start, self._run, self._most = start, run, most
    self._random, self._looked = source, 0.0
    self._process: Any = None
    self._killed: Kill | None = None  # not ended yet

  def tend(self) -> int | None:
    """Starts or kills the process if it is time; returns its own status."""
    if time.monotonic() < self._looked + _LOOK_SECONDS:
      return None
    self._looked = time.monotonic()
    if self._process is None:
      self._begin()
    status = self._process.poll()
    if self._killed is not None:
      if status is not None:
        self._note(self._killed, status)
    elif status is None and self._is_time():
      self._kill()
    return status if self._killed is None and self._process else None

  def finish(self) -> None:
    """Lets the process evaluate what is left.

    Raises:
      RuntimeError: it ended in another way.
    """
    while (status := self.tend()) is None:
      time.sleep(_LOOK_SECONDS)
    if status != DONE:
      raise RuntimeError(f"--watch ended with {status}")

  def _begin(self) -> None:
    self._process = self._start()
    self._since, self._scores = self._looked, self._run.scores()
    # One in four is killed early, while it starts or waits. The others get
    # further, so that the evaluations come to an end.
    self._early = self._random.random() < 0.25
    self._delay = self._random.random() * (8.0 if self._early else 2.0)

  def _is_time(self) -> bool:
    if len(self.kills) >= self._most:
      return False
    if not self._early and self._run.scores() == self._scores:
      self._since = self._looked
    late = self._looked - self._since >= self._delay
    return late and (self._early or self._left())

  def _left(self) -> bool:
    return any(map(self._run.waiting, self._run.steps()))

  def _kill(self) -> None:
    number = self._random.choice([signal.SIGKILL, signal.SIGTERM])
    os.kill(self._process.pid, number)
    self._killed = Kill(
        number=number,
        during="watch",
        step=self._run.logged(),
        resumed=self._run.saved(),
        hit=self._left(),
        statuses=(),
    )

  def _note(self, kill: Kill, status: int) -> None:
    self.kills.append(dataclasses.replace(kill, statuses=(status,)))
    print(f"watcher {len(self.kills)}: {self.kills[-1]}", flush=True)
    self._killed = self._process = None


def wait(process) -> int:
  """Waits for a process to end, and returns its status."""
  while (status := process.poll()) is None:
    time.sleep(0.01)
  return status
