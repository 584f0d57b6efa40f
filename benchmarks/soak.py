"""Kills a training run many times, and checks that the result is the same.

  python benchmarks/soak.py --config=configs/emoji.py:steps=400 --kills=20

This runs a config twice. One run is undisturbed. The other is killed at random
and started again each time: with kill -9 and SIGTERM, during steps, checkpoints
and evaluations. The script prints a tally, and ends with status 0 if nothing
differs: parameters bit for bit, each line of metrics, each evaluation, the
events of TensorBoard and the names of files. With --processes=2 each run has
two processes, of which one is killed.

With --watch, a process of its own evaluates each checkpoint of the killed run
and is killed at random times as well. The undisturbed run evaluates itself, at
the same steps.
"""

from collections.abc import Callable
from collections.abc import Sequence
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from ml_collections import config_flags
import same_runs
from victims import Kill
from victims import Run
from victims import Watcher
from victims import wait

from siglip_jax import cli
from siglip_jax.errors import DONE
from siglip_jax.errors import UserError

_SHOWN = 10  # differences of a check
# Starts main with these arguments; returns a process with `pid` and `poll()`.
Launch = Callable[[Sequence[str]], Any]


class Soak:
  """A run that is killed and started again.

  Args:
    launch: starts a process.
    arguments: arguments of each start.
    run: the run's folder.
    processes: number of processes per start.
    watch: largest number of kills of a watcher; None evaluates in the run.
    seed: seed for the times and victims of the kills.
  """

  def __init__(
      self,
      launch: Launch,
      arguments: Sequence[str],
      run: Run,
      *,
      processes: int = 1,
      watch: int | None = None,
      seed: int = 0,
  ):
    self.run, self.random = run, random.Random(seed)
    self._launch, self._count = launch, processes
    self._arguments = [*arguments, f"--workdir={run.workdir}"]
    self.watcher = None
    if watch is not None:
      start = lambda: launch([*self._arguments, "--watch"])
      self.watcher = Watcher(start, run, watch, self.random)

  def start(self) -> list:
    """Starts the run, and returns all its processes."""
    arguments = list(self._arguments)
    if self.watcher is not None:
      arguments.append("--noevaluate")
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
    run = self.run
    begin, starts = run.saved(), run.starts()
    processes = self.start()
    # What is on file was written by an earlier start.
    while (
        run.starts() == starts
        or run.saved() == begin
        or not run.at(during, begin + ahead)
    ):
      if any(p.poll() is not None for p in processes):
        raise RuntimeError(f"ended: {[wait(p) for p in processes]}")
      self._pause(0.002)
    most = run.evaluation_seconds() / 2 if during == "evaluation" else 0.05
    time.sleep(self.random.random() * most)
    os.kill(self.random.choice(processes).pid, number)
    step = run.logged()
    statuses = tuple(wait(p) for p in processes)
    return Kill(
        number=number,
        during=during,
        step=step,
        resumed=run.saved(),
        hit=during != "evaluation" or run.evaluating(step),
        statuses=statuses,
    )

  def finish(self) -> None:
    """Starts the run, and lets it and its watcher run to the end.

    Raises:
      RuntimeError: a process ended in another way.
    """
    processes = self.start()
    while any(p.poll() is None for p in processes):
      self._pause(0.01)
    statuses = [wait(p) for p in processes]
    if set(statuses) != {DONE}:
      raise RuntimeError(f"{self.run.workdir}: ended with {statuses}")
    if self.watcher is not None:
      self.watcher.finish()

  def repeat_evaluations(self, steps: Sequence[int]) -> None:
    """Evaluates checkpoints again, which adds a line if a score differs.

    Raises:
      RuntimeError: an evaluation failed.
    """
    for step in steps:
      arguments = [*self._arguments, "--eval_only", f"--step={step}"]
      if (status := wait(self._launch(arguments))) != DONE:
        raise RuntimeError(f"--eval_only --step={step} ended with {status}")

  def _pause(self, seconds: float) -> None:
    if self.watcher is not None and self.watcher.tend() not in (None, DONE):
      raise RuntimeError("--watch ended before the run")
    time.sleep(seconds)


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

  Returns:
    The kills, those of its watcher last.
  """
  ways, done = [], []
  known = [w for w in WAYS if run.watcher is None or w[0] != "evaluation"]
  while len(ways) < kills:
    ways += run.random.sample(known, len(known))
  for i, (during, number) in enumerate(ways[:kills]):
    # Limit the distance, so that the remaining kills still have room.
    most = (total_steps - run.run.saved()) // (kills - i + 1)
    ahead = run.random.randint(1, max(most, 1))
    done.append(run.kill(during, number, ahead=ahead))
    print(f"{i + 1}: {done[-1]}", flush=True)
  run.finish()
  return done + (run.watcher.kills if run.watcher else [])


def compare(undisturbed: Run, killed: Soak) -> dict[str, list[str]]:
  """Returns what differs, by check, between two finished runs.

  A watcher evaluates each checkpoint, and SIGTERM leaves one at any step. These
  evaluations are compared with evaluations of the same checkpoints made now.
  """
  more: set[int] = set()
  if killed.watcher is not None:
    more = killed.run.steps() - undisturbed.steps()
    killed.repeat_evaluations(sorted(more))
  return same_runs.differences(
      undisturbed.workdir, killed.run.workdir, more=more
  )


def tally(kills: Sequence[Kill], different: dict[str, list[str]]) -> str:
  """Returns a table of the kills and their outcome, as text."""
  rows = [f"{'during':12} {'signal':8} kills, ended as they should, hit"]
  for during, number in [
      *WAYS,
      ("watch", signal.SIGKILL),
      ("watch", signal.SIGTERM),
  ]:
    of = [k for k in kills if (k.during, k.number) == (during, number)]
    if of:
      right, hit = sum(k.right() for k in of), sum(k.hit for k in of)
      rows.append(f"{during:12} {number.name:8} {len(of):5}, {right}, {hit}")
  rows.append(f"{len(kills)} kills")
  for check, found in different.items():
    more = f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
    listed = ", ".join(found[:_SHOWN]) + more
    rows.append(f"{check}: {listed or 'the same'}")
  return "\n".join(rows)


def passed(kills: Sequence[Kill], different: dict[str, list[str]]) -> bool:
  """Whether nothing differs, and the kills were as they should be."""
  missed = [
      during
      for during in {k.during for k in kills}
      if not any(k.hit for k in kills if k.during == during)
  ]
  return not (
      any(different.values()) or missed or not all(k.right() for k in kills)
  )


def main(argv: Sequence[str]) -> int:
  """Runs the soak test on a config."""
  del argv
  config = cli.config()
  watch, evals = _WATCH.value, _SAVE.value if _WATCH.value else _EVAL.value
  if config.total_steps // (_KILLS.value + 2) <= _SAVE.value:
    raise UserError(
        "Between two kills there must be a checkpoint: expected more than"
        f" {_SAVE.value * (_KILLS.value + 2)} steps, got {config.total_steps}."
    )
  if watch and _PROCESSES.value > 1:
    raise UserError(
        "--watch compares with a run that evaluates itself on as many devices:"
        f" expected --processes=1, got {_PROCESSES.value}."
    )
  cadence = [
      f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}",
      "--config.log_steps=1",
      f"--config.ckpt.save_steps={_SAVE.value}",
      *(f"--config.evals.{n}.every_steps={evals}" for n in config.evals),
  ]
  if watch:  # nothing is deleted before it is evaluated
    cadence.append(f"--config.ckpt.keep={config.total_steps}")
  with tempfile.TemporaryDirectory() as folder:
    undisturbed, killed = (
        Soak(
            launch,
            cadence,
            Run(Path(folder) / name, list(config.evals), evals=evals),
            processes=_PROCESSES.value,
            watch=_KILLS.value if watch and name == "killed" else None,
            seed=_SEED.value,
        )
        for name in ("undisturbed", "killed")
    )
    undisturbed.finish()
    kills = soak(killed, _KILLS.value, config.total_steps)
    different = compare(undisturbed.run, killed)
  print(tally(kills, different))
  return int(not passed(kills, different))


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
  _EVAL = flags.DEFINE_integer(
      "eval_steps", 15, "Steps between evaluations; not used with --watch."
  )
  _WATCH = flags.DEFINE_bool("watch", False, "Evaluate beside the killed run.")
  _PROCESSES = flags.DEFINE_integer("processes", 1, "Processes per start.")
  _SEED = flags.DEFINE_integer("random_seed", 0, "Seed of the kills.")
  cli.main(main)
