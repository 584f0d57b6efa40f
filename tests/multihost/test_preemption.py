"""SIGTERM stops a run alone at its next step, and several at a common one."""

import signal

import fakes
from jax.experimental import multihost_utils
import pytest

from siglip_jax.multihost.preemption import Preemption


@pytest.fixture
def handler():
  """SIGTERM's handler, which is there again after the test."""
  before = signal.getsignal(signal.SIGTERM)
  yield before
  signal.signal(signal.SIGTERM, before)


def test_a_run_alone_stops_at_the_step_after_sigterm(handler):
  stop = Preemption(fakes.BoardPeers({}, 0, 1))
  assert not stop.reached(1)
  signal.raise_signal(signal.SIGTERM)
  assert stop.reached(2) and stop.reached(3)


def test_among_several_jax_listens_and_agrees_on_the_step(handler, monkeypatch):
  asked = []
  monkeypatch.setattr(
      multihost_utils,
      "reached_preemption_sync_point",
      lambda step: asked.append(step) or step == 7,
  )
  stop = Preemption(fakes.BoardPeers({}, 1, 2))
  assert signal.getsignal(signal.SIGTERM) is handler
  assert [stop.reached(step) for step in (6, 7)] == [False, True]
  assert asked == [6, 7]
