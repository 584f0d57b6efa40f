"""A parent that waits: a process that dies of a signal may be started again.

JAX ends a process by SIGABRT when the one that coordinates all is gone, so no
handler of its own could choose the status. The parent does.
"""

from collections.abc import Callable
import ctypes
import os
import signal
import sys

from siglip_jax.errors import TRY_AGAIN

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def watch(main: Callable[[], int]) -> int:
  """Runs `main` in a child, and returns its status in the parent.

  Call it before any device is used. SIGTERM and SIGINT are handed on; the
  child does not survive its parent (on Linux).

  Returns:
    What `main` returned; TRY_AGAIN if the child died of a signal.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  child = os.fork()
  if not child:
    _die_with_parent()
    return main()
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, _: os.kill(child, n))
  _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  if code >= 0:
    return code
  print(
      f"error: The process died of {signal.Signals(-code).name}; what it said"
      " last is above. Start the same command again.",
      file=sys.stderr,
      flush=True,
  )
  return TRY_AGAIN


def _die_with_parent() -> None:
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
