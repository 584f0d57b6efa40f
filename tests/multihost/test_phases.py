"""Phases of a run: which one is under way, and how long each took."""

import pytest

from siglip_jax.multihost.phases import Phases


@pytest.fixture
def now():
  """A clock that a test sets."""
  return [0.0]


@pytest.fixture
def phases(now):
  return Phases(clock=lambda: now[0])


def test_phases_are_timed(now, phases):
  for spent in (1.0, 2.0):
    with phases("data", 4):
      now[0] += spent
      assert (phases.current.name, phases.current.step) == ("data", 4)
      assert phases.age(phases.current) == spent
  assert phases.take() == {"data": 3.0} and phases.take() == {}


def test_a_run_starts_in_a_phase_and_is_between_two_of_them_otherwise(
    now, phases
):
  assert (phases.current.name, phases.current.step) == ("start", 0)
  now[0] = 5.0
  assert phases.age(phases.current) == 5.0
  with phases("step", 7):
    now[0] = 6.0
  assert (phases.current.name, phases.current.step) == ("between", 7)
  now[0] = 9.0
  assert phases.age(phases.current) == 3.0
  assert phases.take() == {"step": 1.0}  # only what was entered is counted


def test_a_phase_that_fails_is_over_and_counted(now, phases):
  with pytest.raises(OSError):
    with phases("save", 3):
      now[0] = 2.0
      raise OSError
  assert phases.current.name == "between" and phases.take() == {"save": 2.0}
