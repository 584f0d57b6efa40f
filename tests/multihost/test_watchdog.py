"""The watchdog: what ends a run, whom it names, and whom it waits for."""

import dataclasses
import re
import threading
import time

import fakes
import pytest

from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError
from siglip_jax.multihost import watchdog
from siglip_jax.multihost.phases import Phases

LONG = {f.name: 100.0 for f in dataclasses.fields(watchdog.Limits)}


@pytest.fixture
def ended(monkeypatch):
  """The status that the process would have ended with, once it has."""
  ends, now = [], threading.Event()

  def end(status):
    ends.append(status)
    now.set()

  monkeypatch.setattr(watchdog.os, "_exit", end)

  def wait():
    assert now.wait(20)
    return ends[0]

  return wait


def say(board, index, phase, step):
  fakes.BoardPeers(board, index, 2).tell(
      "alive", {"phase": phase, "step": step, "count": 1, "seconds": 9.0}
  )


def test_a_phase_beyond_its_limit_ends_with_stacks_and_the_late_one(
    ended, capfd
):
  board, phases = {}, Phases()
  say(board, 1, "data", 7)
  peers = fakes.BoardPeers(board, 0, 2)
  limits = LONG | {"step_seconds": 0.2}
  with phases("step", 7), watchdog.Watchdog(phases, peers, **limits):
    assert ended() == TRY_AGAIN
  err = capfd.readouterr().err
  assert "step phase of step 7 took longer than" in err
  assert "config.watchdog.step_seconds = 0.2. Worker 1 hung." in err
  assert "worker 1: data of step 7 for 9.0 s" in err
  assert re.search(r"Current thread .*\n.*in _end", err)
  assert "in test_a_phase_beyond_its_limit" in err  # the thread that hung
  assert board["end"][0][0] == TRY_AGAIN  # the others end, too


def test_a_silent_process_is_named_and_one_that_is_done_is_not(ended, capfd):
  board, phases = {}, Phases()
  for index, phase in ((1, "step"), (2, "done")):
    fakes.BoardPeers(board, index, 3).tell(
        "alive", {"phase": phase, "step": 3, "seconds": 0.0}
    )
  limits = LONG | {"peer_seconds": 0.3}
  begin = time.monotonic()
  with watchdog.Watchdog(phases, fakes.BoardPeers(board, 0, 3), **limits):
    assert ended() == TRY_AGAIN
  assert time.monotonic() - begin >= 0.3
  assert "error: Worker 1 gave no sign of life" in capfd.readouterr().err


def test_the_status_of_another_that_cannot_be_fixed_is_taken_over(ended, capfd):
  board = {}
  fakes.BoardPeers(board, 0, 3).tell_end(TRY_AGAIN, "I lost sight of 2.")
  fakes.BoardPeers(board, 2, 3).tell_end(BAD_INPUT, "No such file.")
  peers, limits = fakes.BoardPeers(board, 1, 3), LONG | {"peer_seconds": 5.0}
  with watchdog.Watchdog(Phases(), peers, **limits):
    assert ended() == BAD_INPUT
  err = capfd.readouterr().err
  assert err.startswith("error: Worker 2: No such file.") and "File" not in err


def test_an_error_of_the_network_waits_for_the_silent_one(ended, capfd):
  board = {}
  say(board, 1, "step", 3)
  limits = LONG | {"peer_seconds": 0.3}
  peers = fakes.BoardPeers(board, 0, 2)
  with pytest.raises(RuntimeError, match="closed"):
    with watchdog.Watchdog(Phases(), peers, **limits):
      raise RuntimeError("Connection closed")
  assert ended() == TRY_AGAIN
  assert "Worker 1 gave no sign" in capfd.readouterr().err


def test_a_mistake_of_the_user_waits_for_nobody():
  board = {}
  begin = time.monotonic()
  with pytest.raises(UserError):
    with watchdog.Watchdog(Phases(), fakes.BoardPeers(board, 0, 2), **LONG):
      raise UserError("No.")
  assert time.monotonic() - begin < 50
  assert board["alive"][0] == {"phase": "done"}


def test_what_has_no_limit_has_none():
  phases = Phases()
  with phases("data", 4):
    pass
  assert watchdog.Limits().of(phases.current.name) == float("inf")
  assert watchdog.Limits(data_seconds=5.0).of("data") == 5.0
