"""Pre-emption: after SIGTERM or a platform notice, all save at one step."""

import signal

from jax.experimental import multihost_utils

from siglip_jax.multihost.messages import Peers


class Preemption:
  """Tells whether to save and stop; create it once, before the first step.

  In a run with one process, this class listens for SIGTERM itself. With
  several, JAX listens, and it agrees in the background on a step that no
  process has passed yet. Asking costs a microsecond; a collective in every
  step would wait for the slowest process.

  Args:
    peers: all processes.
  """

  def __init__(self, peers: Peers):
    self._alone, self._caught = peers.count == 1, False
    if self._alone:
      signal.signal(signal.SIGTERM, self._catch)

  def reached(self, step: int) -> bool:
    """Whether to save and stop at this step; call it at every step."""
    if self._alone:
      return self._caught
    return multihost_utils.reached_preemption_sync_point(step)

  def _catch(self, number: int, frame) -> None:
    del number, frame
    self._caught = True
