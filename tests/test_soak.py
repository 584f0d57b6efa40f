"""The short form of benchmarks/soak.py."""

import dataclasses
import importlib.util
import signal

import pytest

from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN


@pytest.fixture(scope="module")
def soak():
  spec = importlib.util.spec_from_file_location("soak", "benchmarks/soak.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    soak, command, place
):
  steps = 40
  arguments = [
      f"--config={place / 'tiny.py'}",
      f"--config.total_steps={steps}",
  ]
  launch = lambda words: command.start("siglip_jax.main", *words)
  runs = [
      soak.Soak(launch, arguments, place / name, evals=5)
      for name in ("soak_undisturbed", "soak_killed")
  ]
  runs[0].finish()
  kills = soak.soak(runs[1], 3, steps)
  assert len({(k.during, k.number) for k in kills}) == 3
  assert all(k.right() for k in kills), kills
  resumed = [k.resumed for k in kills]
  assert 0 < resumed[0] < resumed[1] < resumed[2] < steps
  assert soak.differences(*(r.workdir for r in runs)) == []


def test_what_differs_and_who_ended_wrongly_is_told(soak, trained, place):
  other = place / "soak_killed"
  assert soak.differences(trained, trained) == []
  assert "loss of step 12" in soak.differences(trained, other)
  kill = soak.Kill(
      number=signal.SIGTERM,
      during="step",
      step=3,
      resumed=3,
      statuses=(TRY_AGAIN,),
  )
  assert kill.right()
  lost = dataclasses.replace(kill, number=signal.SIGKILL, statuses=(-9, DONE))
  assert not lost.right()
  said = soak.tally([kill, lost], ["img/x"])
  assert "SIGTERM      1, 1" in said and "SIGKILL      1, 0" in said
  assert "parameters and losses: img/x" in said
