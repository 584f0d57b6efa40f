"""Kills one training run many times, and sees whether it matters.

  python benchmarks/soak.py --config=configs/emoji.py:steps=400 --kills=20

runs a config once undisturbed and once killed at random: kill -9 and SIGTERM,
during steps, checkpoints and evaluations, started again each time. It prints
a tally and ends with status 0 if parameters and losses are the same, bit for
bit. With --processes=2 each run is two processes, of which one is killed.
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

# Starts main with these arguments; what it returns has `pid` and `poll()`.
Launch = Callable[[Sequence[str]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
  """One kill, and how the run took it."""

  number: signal.Signals
  during: str  # what was aimed at: step, checkpoint or evaluation
  step: int  # the last one logged
  resumed: int  # the step that the next start goes on from
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
    arguments: of each start.
    workdir: of the run.
    evals: the steps between evaluations.
    processes: of each start.
    seed: of what happens when.
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
    """All processes of one start."""
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
    """Starts, and kills `ahead` steps later, in such a moment.

    Not before there is a new checkpoint: each start goes further than the last.

    Raises:
      RuntimeError: the run ended before.
    """
    begin, old = self.saved(), self._written()
    processes = self.start()
    # What is there at first was written by a start that is dead.
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
    """Starts, and lets it run to the end."""
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
    """Which file the metrics are; each start makes a new one."""
    path = self.workdir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0

  def saved(self) -> int:
    """The newest checkpoint's step, 0 if there is none."""
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
  """Kills a run in every way, in random order and at random, and ends it."""
  ways, done = [], []
  while len(ways) < kills:
    ways += run.random.sample(WAYS, len(WAYS))
  for i, (during, number) in enumerate(ways[:kills]):
    # So far apart at most that there is room for all.
    most = (total_steps - run.saved()) // (kills - i + 1)
    ahead = run.random.randint(1, max(most, 1))
    done.append(run.kill(during, number, ahead=ahead))
    print(f"{i + 1}: {done[-1]}", flush=True)
  run.finish()
  return done


def wait(process) -> int:
  """The status of a process that ends by itself, or is about to."""
  while (status := process.poll()) is None:
    time.sleep(0.01)
  return status


def losses(workdir: Path) -> dict[int, float]:
  """Of each step that was logged."""
  path = workdir / "metrics.jsonl"
  found = {}
  for text in path.read_text().splitlines() if path.exists() else ():
    try:
      line = json.loads(text)
    except json.JSONDecodeError:
      continue  # Being written, or cut by a kill.
    if "train/loss" in line:
      found[line["step"]] = line["train/loss"]
  return found


def differences(one: Path, other: Path) -> list[str]:
  """What is not the same in two finished runs, by name."""
  a, b = (tree.flatten(siglip_jax.load(w).params) for w in (one, other))
  found = [n for n in a if not np.array_equal(a[n], b[n])]
  lines, others = losses(one), losses(other)
  return found + [f"loss of step {s}" for s in lines if lines[s] != others[s]]


def tally(kills: Sequence[Kill], different: Sequence[str]) -> str:
  """A table of what was done to a run, and what came of it."""
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
  """Soaks a config."""
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
  """Starts main, silent but for its errors."""
  command = [sys.executable, "-m", "siglip_jax.main", *arguments]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
  _CONFIG = config_flags.DEFINE_config_file(
      "config", "configs/emoji.py:steps=400", "What to run."
  )
  _KILLS = flags.DEFINE_integer("kills", 20, "How many.")
  _SAVE = flags.DEFINE_integer("save_steps", 10, "Steps between checkpoints.")
  _EVAL = flags.DEFINE_integer("eval_steps", 15, "Steps between evaluations.")
  _PROCESSES = flags.DEFINE_integer("processes", 1, "Of each start.")
  _SEED = flags.DEFINE_integer("random_seed", 0, "Of the moments.")
  cli.main(main)
