"""Pre-emption: after SIGTERM or a platform notice, all save at one step."""

from collections.abc import Iterable
from collections.abc import Iterator
import signal
from typing import Any

from jax.experimental import multihost_utils

from siglip_jax.multihost.messages import Peers


class Interrupted(Exception):
  """An evaluation was left, because the run is to save and stop."""


class Preemption:
  """Tells whether to save and stop; create it once, before the first step.

  In a run with one process, this class listens for SIGTERM itself. With
  several, JAX listens, and it agrees in the background on a question that no
  process has asked yet. Asking costs a microsecond; a collective in every step
  would wait for the slowest process.

  Args:
    peers: all processes.
  """

  def __init__(self, peers: Peers):
    self._alone, self._caught = peers.count == 1, False
    self._asked = 0
    if self._alone:
      signal.signal(signal.SIGTERM, self._catch)

  def reached(self) -> bool:
    """Whether to save and stop here.

    All processes must ask equally often, and at the same places: they agree on
    the number of a question.
    """
    if self._alone:
      return self._caught
    self._asked += 1
    return multihost_utils.reached_preemption_sync_point(self._asked)

  def between(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields batches that all processes have equally many of.

    Raises:
      Interrupted: the run is to save and stop; raised before the next batch.
    """
    for batch in batches:
      if self.reached():
        raise Interrupted
      yield batch

  def _catch(self, number: int, frame) -> None:
    del number, frame
    self._caught = True
