"""Words between processes: through the store, in time, and to be relied on."""

import threading
import types

import fakes
import jax
import pytest

from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain
from siglip_jax.multihost import messages


class Store:
  """What is used of JAX's key-value store, in this process."""

  def __init__(self):
    self.values, self.gone = {}, False

  def key_value_set(self, key, value, allow_overwrite):
    self._check()
    assert allow_overwrite or key not in self.values
    self.values[key] = value

  def key_value_dir_get(self, prefix):
    self._check()
    return [(k, v) for k, v in self.values.items() if k.startswith(prefix)]

  def _check(self):
    if self.gone:
      raise jax.errors.JaxRuntimeError("UNAVAILABLE: no route\nmore of it")


@pytest.fixture
def store():
  return Store()


@pytest.fixture
def peers(monkeypatch, store):
  """The process of an index among so many that share the store."""

  def peers(index, count):
    state = types.SimpleNamespace(
        client=store, process_id=index, num_processes=count
    )
    monkeypatch.setattr(messages.distributed, "global_state", state)
    return messages.Peers()

  return peers


def test_a_process_alone_hears_itself():
  alone = messages.Peers()
  assert (alone.index, alone.count) == (0, 1)
  assert alone.hear("step") == {}
  alone.tell("step", 1)
  alone.tell("step", {"at": [2, None]})
  assert alone.hear("step") == {0: {"at": [2, None]}}
  assert alone.gather("facts", "mine", seconds=0) == ["mine"]
  assert alone.heard_end() is None


def test_the_last_word_of_each_is_heard_by_all(peers):
  first, last = peers(0, 12), peers(11, 12)
  first.tell("step", 3)
  last.tell("step", 4)
  last.tell("step", 5)
  last.tell("steps", "another topic")
  assert first.hear("step") == last.hear("step") == {0: 3, 11: 5}


def test_all_are_waited_for_and_come_in_order(peers):
  two = peers(0, 2), peers(1, 2)
  late = threading.Timer(0.1, lambda: two[1].tell("facts", "b"))
  late.start()
  assert two[0].gather("facts", "a", seconds=60) == ["a", "b"]
  late.join()


def test_the_silent_are_named_when_the_time_is_over(peers):
  peers(2, 4).tell("facts", 1)
  match = "Workers 0, 3 of 4 gave no sign of 'facts' within 0.1 s"
  with pytest.raises(TryAgain, match=match):
    peers(1, 4).gather("facts", 1, seconds=0.1)


def test_a_store_that_is_gone_asks_for_another_start(peers, store):
  mine = peers(1, 2)
  store.gone = True
  match = "^Worker 0, through which all .* does not answer: UNAVAIL.*route$"
  for call in (lambda: mine.tell("a", 1), lambda: mine.hear("a")):
    with pytest.raises(TryAgain, match=match):
      call()
  mine.tell_end(BAD_INPUT, "Nobody is left to hear it.")


def test_the_end_that_a_restart_cannot_fix_is_heard_first():
  board = {}
  speak = lambda i, *end: fakes.BoardPeers(board, i, 4).tell_end(*end)
  mine = fakes.BoardPeers(board, 0, 4)
  speak(0, BAD_INPUT, "My own.")
  assert mine.heard_end() is None
  speak(1, TRY_AGAIN, "Lost sight of 3.")
  assert mine.heard_end() == (TRY_AGAIN, "Worker 1: Lost sight of 3.")
  speak(2, BAD_INPUT, "No such file.")
  assert mine.heard_end() == (BAD_INPUT, "Worker 2: No such file.")
  speak(3, 1, "A bug.")  # cannot be fixed either, and comes later
  assert mine.heard_end() == (BAD_INPUT, "Worker 2: No such file.")


def test_workers_are_named_in_order():
  assert messages.named([3]) == "Worker 3"
  assert messages.named({10, 2}) == "Workers 2, 10"
