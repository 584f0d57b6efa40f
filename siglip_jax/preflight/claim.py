"""The claim of a workdir, before anything in it is read or written."""

from collections.abc import Iterator
import contextlib
from pathlib import Path

from siglip_jax import workdir as workdir_lib
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.lock import Lock
from siglip_jax.multihost.messages import Peers

_SECONDS = 300.0  # a lock that another host may hold is watched a while


@contextlib.contextmanager
def claim(
    workdir: str | Path, peers: Peers, *, name: str = "lock.json", what: str
) -> Iterator[Path]:
  """Creates the workdir if it is missing, and holds it for one job.

  A start that fails leaves no folder behind that it made: on the way out, those
  still empty are removed.

  Args:
    workdir: local or mounted folder.
    peers: all processes; process 0 holds the lock for them.
    name: name of the lock's file; jobs that may not run at the same time share
      it.
    what: the job, for messages.

  Yields:
    The path of the workdir, with ~ expanded.

  Raises:
    UserError: another job holds the workdir, or it cannot be written to.
    TryAgain: another process is missing.
  """
  path, problem, again = workdir_lib.local(workdir), "", False
  new: list[Path] = []
  lock = Lock(path, name=name, what=what)
  held = False
  try:
    try:
      new = [p for p in (path, *path.parents) if not p.exists()]
      path.mkdir(parents=True, exist_ok=True)
      if peers.index == 0:
        lock.acquire()
        held = True
    except (UserError, TryAgain) as e:
      problem, again = str(e), isinstance(e, TryAgain)
    except OSError as e:
      problem = workdir_lib.unwritable(path, e)
    answers = peers.gather(
        f"claimed {name}", [problem, again], seconds=_SECONDS
    )
    for problem, again in answers:
      if problem:
        raise (TryAgain if again else UserError)(problem)
    yield path
  finally:
    if held:
      lock.release()
    with contextlib.suppress(OSError):  # not empty: the run has begun
      for folder in new:
        folder.rmdir()
