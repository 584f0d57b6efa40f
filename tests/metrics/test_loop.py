"""Metrics of the loop: logged one step late, and examples per second."""

import jax.numpy as jnp
import pytest

from siglip_jax.errors import UserError
from siglip_jax.metrics import loop


def test_shares_of_phases_are_those_of_the_steps():
  seconds = {"data": 3.0, "step": 8.0, "first_step": 1.0, "eval": 50.0}
  assert loop.phase_shares(seconds, 4) == {
      "train/step_seconds": 3.0,
      "data/wait_share": 0.25,
  }
  assert loop.phase_shares({"save": 7.0}, 4)["ckpt/save_seconds"] == 7.0
  memory = loop.host_memory()
  assert (
      memory["host/memory_bytes"] > 1e7 and 0 < memory["host/memory_used"] < 1
  )


def test_pauses_do_not_count(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
  clock = loop.Throughput()
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
    self.delayed = loop.Delayed(
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
  steps = Loop()
  assert not steps.delayed.any
  assert steps.step(1) == []
  assert steps.delayed.any
  assert steps.step(2) == [line("check", 1), line("log", 1)]
  assert steps.step(3, logged=False) == [line("check", 2), line("log", 2)]
  assert steps.step(4) == []  # the third was not to be logged
  assert steps.step(5) == [line("check", 4), line("log", 4)]


def test_settling_logs_what_is_pending_once():
  steps = Loop()
  steps.step(1)
  assert steps.settle(1) == [line("check", 1), line("log", 1)]
  assert steps.step(2) == []


def test_settling_checks_the_newest_step_if_it_is_not_logged():
  steps = Loop()
  assert steps.settle(0) == []  # no step yet
  steps.step(1)
  steps.step(2, logged=False)
  assert steps.settle(2) == [("check", 2, {"train/loss": 2.0})]


def test_a_step_that_fails_its_check_is_not_logged():
  def fail(step, values):
    raise UserError(f"step {step}: loss {values['train/loss']}")

  logged = []
  delayed = loop.Delayed(fail, lambda *args: logged.append(args))
  bad = {"train/loss": jnp.float32("nan")}
  delayed.follow(bad)
  delayed.put(1, bad)
  with pytest.raises(UserError, match="step 1: loss nan"):
    delayed.follow(bad)
  assert not logged
