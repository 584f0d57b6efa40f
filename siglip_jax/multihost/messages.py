"""Messages between the processes of a run, without using a device.

Messages go through the key-value store of JAX's coordination service, which
process 0 runs. JAX's public collectives compile a program and wait forever;
this module compiles nothing, and every wait has a time limit. The store is not
part of JAX's public interface, so no other file touches it.
"""

from collections.abc import Sequence
import json
import time
from typing import Any

import jax
from jax._src import distributed

from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain

_TICK = 0.05  # seconds between two reads of the store


class Peers:
  """The processes of this run, and the messages between them.

  A run with a single process keeps its messages to itself.

  Attributes:
    index: this process's index.
    count: number of processes.
  """

  def __init__(self):
    state = distributed.global_state
    self._client: Any = state.client
    self.index = state.process_id if self._client else 0
    self.count = state.num_processes if self._client else 1
    self._alone: dict[str, str] = {}

  def tell(self, topic: str, value: Any) -> None:
    """Publishes this process's value on a topic, replacing its earlier one.

    Args:
      topic: name of the topic.
      value: a JSON value.

    Raises:
      TryAgain: process 0 does not answer.
    """
    text = json.dumps(value)
    if self._client is None:
      self._alone[topic] = text
      return
    try:
      self._client.key_value_set(f"siglip/{topic}/{self.index}", text, True)
    except jax.errors.JaxRuntimeError as e:
      raise _lost(e) from None

  def hear(self, topic: str) -> dict[int, Any]:
    """Returns the latest value of each process on a topic, by index.

    Processes that have published nothing are missing.

    Raises:
      TryAgain: process 0 does not answer.
    """
    if self._client is None:
      text = self._alone.get(topic)
      return {} if text is None else {0: json.loads(text)}
    try:
      items = self._client.key_value_dir_get(f"siglip/{topic}/")
    except jax.errors.JaxRuntimeError as e:
      raise _lost(e) from None
    return {int(k.rpartition("/")[2]): json.loads(v) for k, v in items}

  def gather(self, topic: str, value: Any, *, seconds: float) -> list[Any]:
    """Publishes a value and returns the values of all processes, by index.

    Use a topic once only: a second call could return values of the first.

    Args:
      topic: name of the topic.
      value: this process's value, a JSON value.
      seconds: time limit.

    Raises:
      TryAgain: some processes published nothing within the time limit; the
        message names them.
    """
    self.tell(topic, value)
    end = time.monotonic() + seconds
    while len(values := self.hear(topic)) < self.count:
      if time.monotonic() > end:
        raise TryAgain(
            f"{named(set(range(self.count)) - values.keys())} of"
            f" {self.count} gave no sign of {topic!r} within {seconds:g} s."
            " Look at the log there, then start the same command again."
        )
      time.sleep(_TICK)
    return [values[i] for i in range(self.count)]

  def tell_end(self, status: int, message: str) -> None:
    """Announces that this process ends early and why; the others then end too.

    Args:
      status: this process's exit status.
      message: the reason.
    """
    try:
      self.tell("end", [status, message])
    except TryAgain:
      pass  # Process 0 is gone, so no process can read the message.

  def heard_end(self) -> tuple[int, str] | None:
    """Returns the status and reason of another process's early end, or None.

    If several processes ended, prefers a failure that restarting cannot fix.
    """
    others = {i: e for i, e in self.hear("end").items() if i != self.index}
    ends = [(s, f"Worker {i}: {m}") for i, (s, m) in sorted(others.items())]
    return min(ends, key=lambda e: e[0] == TRY_AGAIN, default=None)


def named(workers: Sequence[int] | set[int]) -> str:
  """Returns "Worker 3" or "Workers 1, 3", for the start of a sentence."""
  plural = "s" if len(workers) > 1 else ""
  return f"Worker{plural} {', '.join(map(str, sorted(workers)))}"


def _lost(e: Exception) -> TryAgain:
  reason = (str(e).strip().splitlines() or [""])[0][:200]
  return TryAgain(
      "Worker 0, through which all speak to each other, does not answer:"
      f" {reason}"
  )
