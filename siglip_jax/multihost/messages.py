"""The processes of a run, speaking to each other without a device.

They speak through the key-value store of JAX's coordination service, which
process 0 runs. JAX's public collectives compile a program and wait for ever;
this compiles nothing and every wait has a limit. The store is not part of
JAX's public interface, so this file alone touches it.
"""

from collections.abc import Sequence
import json
import time
from typing import Any

import jax
from jax._src import distributed

from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain

_TICK = 0.05  # seconds between two looks at the store


class Peers:
  """All processes of this run; a run of one speaks to nobody.

  Attributes:
    index: of this process.
    count: of all.
  """

  def __init__(self):
    state = distributed.global_state
    self._client: Any = state.client
    self.index = state.process_id if self._client else 0
    self.count = state.num_processes if self._client else 1
    self._alone: dict[str, str] = {}

  def tell(self, topic: str, value: Any) -> None:
    """Leaves this process's word, a JSON value, in place of an earlier one.

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
    """What each process said last, by process; silent ones are missing.

    Raises:
      TryAgain: process 0 does not answer.
    """
    if self._client is None:
      text = self._alone.get(topic)
      return {} if text is None else {0: json.loads(text)}
    try:
      found = self._client.key_value_dir_get(f"siglip/{topic}/")
    except jax.errors.JaxRuntimeError as e:
      raise _lost(e) from None
    return {int(k.rpartition("/")[2]): json.loads(v) for k, v in found}

  def gather(self, topic: str, value: Any, *, seconds: float) -> list[Any]:
    """Every process's word on a topic of which each speaks once.

    Raises:
      TryAgain: some said nothing within the limit; they are named.
    """
    self.tell(topic, value)
    end = time.monotonic() + seconds
    while len(found := self.hear(topic)) < self.count:
      if time.monotonic() > end:
        raise TryAgain(
            f"{named(set(range(self.count)) - found.keys())} of"
            f" {self.count} gave no sign of {topic!r} within {seconds:g} s."
            " Look at the log there, then start the same command again."
        )
      time.sleep(_TICK)
    return [found[i] for i in range(self.count)]

  def tell_end(self, status: int, message: str) -> None:
    """Says that this process ends early, and why; the others end with it."""
    try:
      self.tell("end", [status, message])
    except TryAgain:
      pass  # Nobody is left to hear it.

  def heard_end(self) -> tuple[int, str] | None:
    """Status and reason of another process's early end, if there is one.

    Of several ends the one that a restart cannot mend is told.
    """
    found = {i: e for i, e in self.hear("end").items() if i != self.index}
    ends = [(s, f"Worker {i}: {m}") for i, (s, m) in sorted(found.items())]
    return min(ends, key=lambda e: e[0] == TRY_AGAIN, default=None)


def named(workers: Sequence[int] | set[int]) -> str:
  """Names of workers, to begin a sentence with."""
  plural = "s" if len(workers) > 1 else ""
  return f"Worker{plural} {', '.join(map(str, sorted(workers)))}"


def _lost(e: Exception) -> TryAgain:
  reason = (str(e).strip().splitlines() or [""])[0][:200]
  return TryAgain(
      "Worker 0, through which all speak to each other, does not answer:"
      f" {reason}"
  )
