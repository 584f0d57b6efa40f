"""SIGTERM, or a notice of the platform: save now, all at the same step."""

import signal

from jax.experimental import multihost_utils

from siglip_jax.multihost.messages import Peers


class Preemption:
  """Whether the run shall stop; made once, before the first step.

  Alone, a process listens for SIGTERM itself. Among several, JAX does, and
  agrees in the background on a step that none has passed yet: asking costs a
  microsecond, where a collective a step would wait for the slowest.

  Args:
    peers: all processes.
  """

  def __init__(self, peers: Peers):
    self._alone, self._caught = peers.count == 1, False
    if self._alone:
      signal.signal(signal.SIGTERM, self._catch)

  def reached(self, step: int) -> bool:
    """Whether to save and stop at this step; ask at every step."""
    if self._alone:
      return self._caught
    return multihost_utils.reached_preemption_sync_point(step)

  def _catch(self, number: int, frame) -> None:
    del number, frame
    self._caught = True
