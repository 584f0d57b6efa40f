"""A parent process that turns a child's death by a signal into TRY_AGAIN.

When the coordinating process is gone, JAX ends the others with SIGABRT, so no
handler in such a process can choose its exit status. The parent chooses it.
"""

from collections.abc import Callable
import ctypes
import os
import signal
import sys

from siglip_jax.errors import TRY_AGAIN

_PR_SET_PDEATHSIG = 1  # an option of Linux's prctl


def watch(main: Callable[[], int]) -> int:
  """Runs `main` in a child process, and returns its status in the parent.

  Call it before any device is used. The parent forwards SIGTERM and SIGINT to
  the child. On Linux the child dies with its parent.

  Returns:
    The status that `main` returned; TRY_AGAIN if a signal killed the child.
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
