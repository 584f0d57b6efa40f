"""The short form of benchmarks/soak.py."""

import dataclasses
import importlib.util
import random
import signal

import pytest

from siglip_jax import metrics
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN


@pytest.fixture(scope="module")
def soak():
  """The script, which imports its neighbors."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend("benchmarks")
    spec = importlib.util.spec_from_file_location("soak", "benchmarks/soak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


STEPS = 40


def make(soak, command, place, name, *, watch=None):
  """A run that evaluates and keeps each of its checkpoints."""
  arguments = [
      f"--config={place / 'tiny.py'}",
      f"--config.total_steps={STEPS}",
      "--config.evals.colors.every_steps=4",
      f"--config.ckpt.keep={STEPS}",
  ]
  return soak.Soak(
      lambda words: command.start("siglip_jax.main", *words),
      arguments,
      soak.Run(place / name, ["colors"], evals=4),
      watch=watch,
  )


@pytest.fixture(scope="module")
def undisturbed(soak, command, place):
  one = make(soak, command, place, "undisturbed")
  one.finish()
  return one.run


@pytest.mark.parametrize("watch", [None, 1], ids=["", "watch"])
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    soak, command, place, undisturbed, watch
):
  kills = 1 if watch else 3
  run = make(soak, command, place, f"killed_{watch}", watch=watch)
  done = soak.soak(run, kills, STEPS)
  different = soak.compare(undisturbed, run)
  assert soak.passed(done, different), (done, different)
  of_run = [k for k in done if k.during != "watch"]
  assert len({(k.during, k.number) for k in of_run}) == kills
  resumed = [k.resumed for k in of_run]
  assert sorted({0, STEPS, *resumed}) == [0, *resumed, STEPS]
  assert len(of_run) < len(done) if watch else of_run == done


def test_a_kill_during_an_evaluation_leaves_it_undone(soak, tmp_path):
  run = soak.Run(tmp_path, ["a", "b"], evals=5)
  assert run.logged() == run.saved() == run.starts() == 0
  metrics.lines.append(tmp_path, 5, {"train/loss": 1.0})
  assert run.at("step", 5) and not run.at("step", 6)
  assert not run.at("evaluation", 1)  # not saved yet
  (tmp_path / "checkpoints/5").mkdir(parents=True)
  assert run.at("evaluation", 1)
  metrics.lines.append(tmp_path, 5, {"x": 1.0, "eval/a/seconds": 2.0})
  assert run.evaluating(5) and run.evaluation_seconds() == 2.0
  metrics.lines.append(tmp_path, 5, {"y": 1.0, "eval/b/seconds": 3.0})
  assert not run.evaluating(5) and run.scores() == 2
  assert run.evaluation_seconds() == 2.0  # the others may have compiled
  metrics.lines.append(tmp_path, 6, {"train/loss": 1.0})
  assert run.logged() == 6 and not run.at("evaluation", 1)
  assert not run.at("checkpoint", 1)
  (tmp_path / "checkpoints/7.orbax-checkpoint-tmp").mkdir()
  assert run.at("checkpoint", 1)
  (tmp_path / "checkpoints/6").mkdir()
  assert run.saved() == 6 and not run.at("evaluation", 1)  # not due


class Sleeper:
  """A watcher's process that does nothing; `os.kill` does not reach it."""

  pid = 0

  def __init__(self):
    self.status = None

  def poll(self):
    return self.status


def test_a_watcher_is_killed_and_started_again(
    soak, tmp_path, monkeypatch, capsys
):
  made, kills = [], []

  def start():
    made.append(Sleeper())
    return made[-1]

  def kill(pid, number):
    kills.append(number)
    made[-1].status = -number

  monkeypatch.setattr("victims._LOOK_SECONDS", 0)
  monkeypatch.setattr("os.kill", kill)
  run = soak.Run(tmp_path, ["a"], evals=5)
  watcher = soak.Watcher(start, run, 3, random.Random(0))
  clock = iter(range(10**9))
  monkeypatch.setattr("victims.time.monotonic", lambda: next(clock))
  for step in range(100):
    (tmp_path / f"checkpoints/{step}").mkdir(parents=True)
    if step % 2:
      metrics.lines.append(tmp_path, step, {"eval/a/seconds": 1.0})
    assert watcher.tend() is None
  assert len(kills) == 3 and len(made) == 4
  assert [k.number for k in watcher.kills] == kills
  assert all(k.right() and k.hit for k in watcher.kills)
  assert capsys.readouterr().out.count("\n") == 3
  made[-1].status = TRY_AGAIN
  with pytest.raises(RuntimeError, match="75"):
    watcher.finish()
  made[-1].status = DONE
  watcher.finish()


def test_what_differs_and_who_ended_wrongly_is_told(soak):
  kill = soak.Kill(
      number=signal.SIGTERM,
      during="step",
      step=3,
      resumed=3,
      hit=True,
      statuses=(TRY_AGAIN,),
  )
  assert soak.passed([kill], {"files": []})
  assert dataclasses.replace(kill, statuses=(DONE,)).right()
  assert not soak.passed([kill], {"files": ["lock.json"]})
  lost = dataclasses.replace(kill, number=signal.SIGKILL, statuses=(-9, DONE))
  assert not soak.passed([kill, lost], {})
  late = dataclasses.replace(kill, during="evaluation", hit=False)
  assert not soak.passed([kill, late], {})
  assert soak.passed([kill, late, dataclasses.replace(late, hit=True)], {})
  table = soak.tally([kill, lost, late], {"files": ["x"] * 12, "lines": []})
  assert "step         SIGTERM      1, 1, 1" in table
  assert "step         SIGKILL      1, 0, 1" in table
  assert "evaluation   SIGTERM      1, 1, 0" in table
  assert "files: x, x" in table and table.count("x") == 10
  assert "and 2 more" in table and "lines: the same" in table
