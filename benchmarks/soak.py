"""Kills a training run many times, and checks that the result is the same.

  python benchmarks/soak.py --config=configs/emoji.py:steps=400 --kills=20

This runs a config twice. One run is undisturbed. The other is killed at random
and started again each time: with kill -9 and SIGTERM, during steps, checkpoints
and evaluations. The script prints a tally and ends with status 0 if parameters
and losses are the same, bit for bit. With --processes=2 each run has two
processes, of which one is killed.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import os
from pathlib import Path
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from ml_collections import config_flags
import numpy as np

import siglip_jax
from siglip_jax import cli
from siglip_jax import tree
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError

# Starts main with these arguments; returns a process with `pid` and `poll()`.
Launch = Callable[[Sequence[str]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
  """One kill, and the state of the run after it."""

  number: signal.Signals
  during: str  # the intended moment: step, checkpoint or evaluation
  step: int  # the last step logged before the kill
  resumed: int  # the step that the next start resumes from
  statuses: tuple[int, ...]

  def right(self) -> bool:
    """Whether all processes ended as they should."""
    allowed = {TRY_AGAIN, -self.number}
    if self.number == signal.SIGTERM:
      allowed |= {DONE}  # It came after the last step.
    return set(self.statuses) <= allowed


class Soak:
  """A run that is killed and started again.

  Args:
    launch: starts a process.
    arguments: arguments of each start.
    workdir: the run's folder.
    evals: number of steps between evaluations.
    processes: number of processes per start.
    seed: seed for the times and victims of the kills.
  """

  def __init__(
      self,
      launch: Launch,
      arguments: Sequence[str],
      workdir: Path,
      *,
      evals: int,
      processes: int = 1,
      seed: int = 0,
  ):
    self._launch, self._arguments = launch, list(arguments)
    self.workdir, self._evals, self._count = workdir, evals, processes
    self.random = random.Random(seed)

  def start(self) -> list:
    """Starts the run, and returns all its processes."""
    arguments = [*self._arguments, f"--workdir={self.workdir}"]
    if self._count == 1:
      return [self._launch(arguments)]
    with socket.socket() as s:
      s.bind(("localhost", 0))
      arguments.append(f"--coordinator=localhost:{s.getsockname()[1]}")
    arguments.append(f"--num_processes={self._count}")
    return [
        self._launch([*arguments, f"--process_id={i}"])
        for i in range(self._count)
    ]

  def kill(self, during: str, number: signal.Signals, ahead: int) -> Kill:
    """Starts the run, and kills one of its processes.

    The kill waits for a new checkpoint, so that each start gets further than
    the one before.

    Args:
      during: moment of the kill: step, checkpoint or evaluation.
      number: signal to send.
      ahead: number of steps to run first.

    Raises:
      RuntimeError: the run ended before the kill.
    """
    begin, old = self.saved(), self._written()
    processes = self.start()
    # The first metrics file found was written by an earlier start.
    while (
        self._written() == old
        or self.saved() == begin
        or not self._now(during, begin + ahead)
    ):
      if any(p.poll() is not None for p in processes):
        raise RuntimeError(f"ended: {[wait(p) for p in processes]}")
      time.sleep(0.002)
    time.sleep(self.random.random() * 0.05)
    step = self._logged()
    os.kill(self.random.choice(processes).pid, number)
    statuses = tuple(wait(p) for p in processes)
    return Kill(
        number=number,
        during=during,
        step=step,
        resumed=self.saved(),
        statuses=statuses,
    )

  def finish(self) -> None:
    """Starts the run, and lets it run to the end."""
    statuses = [wait(p) for p in self.start()]
    if set(statuses) != {DONE}:
      raise RuntimeError(f"{self.workdir}: ended with {statuses}")

  def _now(self, during: str, step: int) -> bool:
    logged = self._logged()
    if during == "checkpoint":
      half = (self.workdir / "checkpoints").glob("*-tmp*")
      return logged >= step and any(half)
    if during == "evaluation":
      # Logged just before an evaluation begins.
      return logged >= step and logged % self._evals == 0
    return logged >= step

  def _logged(self) -> int:
    path = self.workdir / "metrics.jsonl"
    end = path.read_bytes()[-4000:] if path.exists() else b""
    return max(map(int, re.findall(rb'"step": (\d+), "data/', end)), default=0)

  def _written(self) -> int:
    """Returns the inode of the metrics file; each start makes a new file."""
    path = self.workdir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0

  def saved(self) -> int:
    """Returns the newest checkpoint's step, or 0 if there is none."""
    steps = (self.workdir / "checkpoints").glob("*")
    return max((int(p.name) for p in steps if p.name.isdigit()), default=0)


WAYS = [
    ("step", signal.SIGKILL),
    ("checkpoint", signal.SIGKILL),
    ("evaluation", signal.SIGTERM),
    ("step", signal.SIGTERM),
    ("checkpoint", signal.SIGTERM),
    ("evaluation", signal.SIGKILL),
]


def soak(run: Soak, kills: int, total_steps: int) -> list[Kill]:
  """Kills a run in every way, in random order and at random steps.

  After the last kill, the run goes on to its end.
  """
  ways, done = [], []
  while len(ways) < kills:
    ways += run.random.sample(WAYS, len(WAYS))
  for i, (during, number) in enumerate(ways[:kills]):
    # Limit the distance, so that the remaining kills still have room.
    most = (total_steps - run.saved()) // (kills - i + 1)
    ahead = run.random.randint(1, max(most, 1))
    done.append(run.kill(during, number, ahead=ahead))
    print(f"{i + 1}: {done[-1]}", flush=True)
  run.finish()
  return done


def wait(process) -> int:
  """Waits for a process to end, and returns its status."""
  while (status := process.poll()) is None:
    time.sleep(0.01)
  return status


def losses(workdir: Path) -> dict[int, float]:
  """Returns the loss of each logged step."""
  path = workdir / "metrics.jsonl"
  found = {}
  for text in path.read_text().splitlines() if path.exists() else ():
    try:
      line = json.loads(text)
    except json.JSONDecodeError:
      continue  # The line is being written, or was cut short by a kill.
    if "train/loss" in line:
      found[line["step"]] = line["train/loss"]
  return found


def differences(one: Path, other: Path) -> list[str]:
  """Names the parameters and losses that differ between two finished runs."""
  a, b = (tree.flatten(siglip_jax.load(w).params) for w in (one, other))
  found = [n for n in a if not np.array_equal(a[n], b[n])]
  lines, others = losses(one), losses(other)
  return found + [f"loss of step {s}" for s in lines if lines[s] != others[s]]


def tally(kills: Sequence[Kill], different: Sequence[str]) -> str:
  """Returns a table of the kills and their outcome, as text."""
  rows = [f"{'during':12} {'signal':8} kills, ended as they should"]
  for during, number in WAYS:
    of = [k for k in kills if (k.during, k.number) == (during, number)]
    right = sum(k.right() for k in of)
    rows.append(f"{during:12} {number.name:8} {len(of):5}, {right}")
  rows.append(f"{len(kills)} kills, {len(kills) + 1} starts")
  same = "the same, bit for bit"
  rows.append(f"parameters and losses: {', '.join(different) or same}")
  return "\n".join(rows)


def main(argv: Sequence[str]) -> int:
  """Runs the soak test on a config."""
  del argv
  config = cli.config()
  if config.total_steps // (_KILLS.value + 2) <= _SAVE.value:
    raise UserError(
        "Between two kills there must be a checkpoint: expected more than"
        f" {_SAVE.value * (_KILLS.value + 2)} steps, got {config.total_steps}."
    )
  cadence = [
      f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}",
      "--config.log_steps=1",
      f"--config.ckpt.save_steps={_SAVE.value}",
  ]
  cadence += [
      f"--config.evals.{name}.every_steps={_EVAL.value}"
      for name in config.evals
  ]
  with tempfile.TemporaryDirectory() as folder:
    runs = [
        Soak(
            launch,
            cadence,
            Path(folder) / name,
            evals=_EVAL.value,
            processes=_PROCESSES.value,
            seed=_SEED.value,
        )
        for name in ("undisturbed", "killed")
    ]
    runs[0].finish()
    kills = soak(runs[1], _KILLS.value, config.total_steps)
    different = differences(*(r.workdir for r in runs))
  print(tally(kills, different))
  return int(bool(different) or not all(k.right() for k in kills))


def launch(arguments: Sequence[str]) -> subprocess.Popen:
  """Starts main with its output hidden, except for errors."""
  command = [sys.executable, "-m", "siglip_jax.main", *arguments]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
  _CONFIG = config_flags.DEFINE_config_file(
      "config", "configs/emoji.py:steps=400", "Config to run."
  )
  _KILLS = flags.DEFINE_integer("kills", 20, "Number of kills.")
  _SAVE = flags.DEFINE_integer("save_steps", 10, "Steps between checkpoints.")
  _EVAL = flags.DEFINE_integer("eval_steps", 15, "Steps between evaluations.")
  _PROCESSES = flags.DEFINE_integer("processes", 1, "Processes per start.")
  _SEED = flags.DEFINE_integer("random_seed", 0, "Seed of the kills.")
  cli.main(main)
