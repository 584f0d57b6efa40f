"""SIGTERM stops a run alone at its next step, and several at a common one."""

import signal

import fakes
from jax.experimental import multihost_utils
import pytest

from siglip_jax.multihost.preemption import Interrupted
from siglip_jax.multihost.preemption import Preemption


@pytest.fixture
def handler():
  """SIGTERM's handler, which is there again after the test."""
  before = signal.getsignal(signal.SIGTERM)
  yield before
  signal.signal(signal.SIGTERM, before)


def test_a_run_alone_stops_at_the_step_after_sigterm(handler):
  stop = Preemption(fakes.BoardPeers({}, 0, 1))
  assert not stop.reached()
  signal.raise_signal(signal.SIGTERM)
  assert stop.reached() and stop.reached()


def test_an_evaluation_is_left_before_the_batch_after_sigterm(handler):
  stop, seen = Preemption(fakes.BoardPeers({}, 0, 1)), []
  with pytest.raises(Interrupted):
    for batch in stop.between("abc"):
      seen.append(batch)
      if batch == "b":
        signal.raise_signal(signal.SIGTERM)
  assert seen == ["a", "b"]
  with pytest.raises(Interrupted):
    next(stop.between("a"))
  assert list(stop.between("")) == []


def test_among_several_jax_listens_and_agrees_on_a_question(
    handler, monkeypatch
):
  asked = []
  monkeypatch.setattr(
      multihost_utils,
      "reached_preemption_sync_point",
      lambda step: asked.append(step) or step == 7,
  )
  stop = Preemption(fakes.BoardPeers({}, 1, 2))
  assert signal.getsignal(signal.SIGTERM) is handler
  # Steps and the batches of evaluations share one count.
  assert list(stop.between("ab")) == ["a", "b"]
  assert [stop.reached() for _ in range(5)] == [False] * 4 + [True]
  assert asked == list(range(1, 8))
