"""Metrics: lines on disk, logged one step late, and examples per second."""

import json
import os

import jax.numpy as jnp
import pytest

from siglip_jax import metrics
from siglip_jax.errors import UserError


def write(workdir, steps):
  writer = metrics.MetricWriter(workdir, write=True)
  for step in steps:
    writer.write(step, {"train/loss": float(step)})
  writer.close()


def test_lines_are_on_disk_before_close_and_nan_is_null(tmp_path):
  writer = metrics.MetricWriter(tmp_path, write=True)
  writer.write(3, {"train/loss": float("nan"), "a": float("inf"), "b": 0.5})
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == '{"step": 3, "train/loss": null, "a": null, "b": 0.5}\n'
  writer.close()
  assert list(tmp_path.glob("events.out.tfevents*"))


def test_other_processes_write_nothing(tmp_path):
  writer = metrics.MetricWriter(tmp_path, write=False)
  writer.write(1, {"train/loss": 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_rewind_drops_later_steps_and_a_cut_line(tmp_path):
  write(tmp_path, [10, 20, 30])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 40, "train/lo')
  assert metrics.rewind(tmp_path, 20) == 2
  write(tmp_path, [30])
  assert [line["step"] for line in metrics.read(tmp_path)] == [10, 20, 30]
  assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == (
      [10, 20, 30]
  )
  assert os.listdir(tmp_path).count("metrics.part") == 0


def test_rewind_completes_a_whole_line_without_its_end(tmp_path):
  write(tmp_path, [10])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text().rstrip("\n"))
  assert metrics.rewind(tmp_path, 10) == 0
  write(tmp_path, [20])
  assert [line["step"] for line in metrics.read(tmp_path)] == [10, 20]


def test_crash_while_rewinding_leaves_the_old_file(tmp_path, monkeypatch):
  write(tmp_path, [10, 20])

  def crash(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", crash)
  with pytest.raises(KeyboardInterrupt):
    metrics.rewind(tmp_path, 10)
  assert len(metrics.read(tmp_path)) == 2


def test_rewind_drops_scores_that_are_made_again(tmp_path):
  writer = metrics.MetricWriter(tmp_path, write=True)
  for step in (10, 20):
    writer.write(step, {"train/loss": 1.0})
    writer.write(step, {"zeroshot/a/top1": 0.5})
  writer.close()
  assert metrics.rewind(tmp_path, 20) == 0
  assert metrics.rewind(tmp_path, 20, scores=False) == 1
  assert [len(x) for x in metrics.read(tmp_path)] == [2, 2, 2]
  assert "zeroshot/a/top1" in metrics.read(tmp_path)[1]
  assert "train/loss" in metrics.read(tmp_path)[2]


def test_shares_of_phases_are_those_of_the_steps():
  seconds = {"data": 3.0, "step": 8.0, "first_step": 1.0, "eval": 50.0}
  assert metrics.phase_shares(seconds, 4) == {
      "train/step_seconds": 3.0,
      "data/wait_share": 0.25,
  }
  assert metrics.phase_shares({"save": 7.0}, 4)["ckpt/save_seconds"] == 7.0
  memory = metrics.host_memory()
  assert (
      memory["host/memory_bytes"] > 1e7 and 0 < memory["host/memory_used"] < 1
  )


def test_nothing_to_read_or_rewind(tmp_path):
  assert metrics.read(tmp_path) == []
  assert metrics.rewind(tmp_path, 5) == 0


def test_pauses_do_not_count(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
  clock = metrics.Throughput()
  clock.start(1000)
  now[0] += 2.0
  with clock.pause():
    now[0] += 50.0
  assert clock.rate(1800) == 400.0
  with pytest.raises(ValueError), clock.pause():
    now[0] += 9.0
    raise ValueError
  now[0] += 1.0
  assert clock.rate(1900) == 100.0


class Loop:
  """Steps as `train` makes them, and what `Delayed` does after each."""

  def __init__(self):
    self.calls = []
    self.delayed = metrics.Delayed(
        lambda step, values: self.calls.append(("check", step, values)),
        lambda step, values: self.calls.append(("log", step, values)),
    )

  def step(self, number, logged=True):
    """Dispatches a step; returns what was checked and logged meanwhile."""
    values = {"train/loss": jnp.float32(number)}
    self.delayed.follow(values)
    if logged:
      self.delayed.put(number, values | {"train/lr": jnp.float32(0.5)})
    return self.take()

  def settle(self, number):
    self.delayed.settle(number)
    return self.take()

  def take(self):
    taken, self.calls = self.calls, []
    return taken


def line(kind, step):
  return kind, step, {"train/loss": float(step), "train/lr": 0.5}


def test_a_step_is_checked_then_logged_when_the_next_is_dispatched():
  loop = Loop()
  assert not loop.delayed.any
  assert loop.step(1) == []
  assert loop.delayed.any
  assert loop.step(2) == [line("check", 1), line("log", 1)]
  assert loop.step(3, logged=False) == [line("check", 2), line("log", 2)]
  assert loop.step(4) == []  # the third was not to be logged
  assert loop.step(5) == [line("check", 4), line("log", 4)]


def test_settling_logs_what_is_pending_once():
  loop = Loop()
  loop.step(1)
  assert loop.settle(1) == [line("check", 1), line("log", 1)]
  assert loop.step(2) == []


def test_settling_checks_the_newest_step_if_it_is_not_logged():
  loop = Loop()
  assert loop.settle(0) == []  # no step yet
  loop.step(1)
  loop.step(2, logged=False)
  assert loop.settle(2) == [("check", 2, {"train/loss": 2.0})]


def test_a_step_that_fails_its_check_is_not_logged():
  def fail(step, values):
    raise UserError(f"step {step}: loss {values['train/loss']}")

  logged = []
  delayed = metrics.Delayed(fail, lambda *args: logged.append(args))
  bad = {"train/loss": jnp.float32("nan")}
  delayed.follow(bad)
  delayed.put(1, bad)
  with pytest.raises(UserError, match="step 1: loss nan"):
    delayed.follow(bad)
  assert not logged
