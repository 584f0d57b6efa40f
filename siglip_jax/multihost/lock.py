"""A lock with a heartbeat: one run at a time in a workdir.

The lock is a small JSON file that names its holder: host, process, time of the
process's start, and a random token. A thread of the holder counts a heartbeat
up in it. The file stays behind if the process is killed, so a later start
decides whether the holder still lives:

- A holder on this machine and in this container is looked up in the process
  table. A dead one is replaced at once.
- Any other holder is watched. It lives if the file changes; no clock of another
  host is compared. It is replaced if the file stays as it is for
  `stale_seconds`, or was last written more than ten times as long ago by the
  file server's own clock.

A start that is refused changes nothing in the folder. The guarantees depend on
the file system:

- On one machine, on a local disk: of any number of starts exactly one gets the
  lock, because `flock` on the folder orders them. A holder that is suspended
  is alive and keeps the lock.
- On NFS and other file servers: a free lock goes to exactly one start, because
  the server creates a file only once. Two starts on different hosts that
  replace the same dead holder within the same moment can both succeed. Each
  reads the file again after `settle_seconds`; if one is slower than that, both
  run until the next heartbeat of the first, which then ends.
- On a mounted bucket (gcsfuse, s3fs): as on a file server, if the mount creates
  files exclusively. Mounts cache what they read, by default for a minute: two
  starts within this time can both run until the cache of one expires, which
  then ends. A holder is therefore watched for up to a minute longer. Files are
  dated by the host that wrote them, so no date is used.

A holder that was suspended on another host, or could not reach the file server,
may be replaced. It ends when it looks at the file next, before it writes it.
What its other threads write in that moment is not prevented.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
from pathlib import Path
import secrets
import sys
import threading
import time

from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import NO_ROOM
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost import holders
from siglip_jax.multihost.holders import Holder
from siglip_jax.multihost.holders import holder
from siglip_jax.multihost.shared_folder import file_system
from siglip_jax.multihost.shared_folder import turn

__all__ = ["Holder", "Lock", "holder"]
_CACHE_SECONDS = 60.0  # how long a mounted bucket may show an old file


def _exit(message: str) -> None:
  """Ends this process at once: no other thread writes anything more."""
  try:
    print(f"error: {message}", file=sys.stderr, flush=True)
  finally:
    os._exit(BAD_INPUT)


class Lock:
  """The lock of one workdir, held inside a `with` block.

  Args:
    workdir: local or mounted folder, which exists.
    name: name of the lock's file.
    what: what holds the lock, for messages of others.
    beat_seconds: time between two heartbeats.
    stale_seconds: time without a heartbeat after which a holder elsewhere is
      replaced; several times `beat_seconds`.
    settle_seconds: time after which a new holder reads the file again, unless
      the file system is local.
    on_lost: called with a message, from the heartbeat's thread, when another
      process has the lock. By default it prints the message and ends this
      process with BAD_INPUT, so that restarts do not fight over the workdir.
  """

  def __init__(
      self,
      workdir: str | Path,
      *,
      name: str = holders.NAME,
      what: str = "run",
      beat_seconds: float = 10.0,
      stale_seconds: float = 60.0,
      settle_seconds: float = 2.0,
      on_lost: Callable[[str], None] = _exit,
  ):
    self._workdir, self._what = Path(workdir), what
    self._path = self._workdir / name
    self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
    self._settle_seconds, self._on_lost = settle_seconds, on_lost
    self._me: Holder | None = None  # while the lock is held

  def __enter__(self) -> "Lock":
    """Acquires the lock."""
    self.acquire()
    return self

  def __exit__(self, *_) -> None:
    """Releases the lock."""
    self.release()

  def acquire(self) -> None:
    """Takes the lock, replacing a dead holder; starts the heartbeat.

    Raises:
      UserError: another process holds the lock, and nothing was changed; or the
        folder cannot be written to.
      TryAgain: another start does not finish.
    """
    assert self._me is None, "held already"
    with _explaining(self._workdir):
      kind = file_system(self._workdir)
      while self._me is None:
        self._me = self._take(self._dead(kind), kind)
    self._stop = threading.Event()
    self._thread = threading.Thread(
        target=self._beat, name="workdir lock", daemon=True
    )
    self._thread.start()

  def release(self) -> None:
    """Removes the file, if it is still this process's.

    Does nothing in a forked child, or if the lock is not held.
    """
    me = self._me
    if me is None or me.pid != os.getpid():
      return
    self._stop.set()
    self._thread.join(self._beat_seconds)  # longer only if a server hangs
    self._me = None
    with contextlib.suppress(OSError, TryAgain), turn(self._workdir):
      current = holders.parse(holders.read(self._path))
      if current is not None and current.token == me.token:
        self._path.unlink()

  def _dead(self, kind: str) -> bytes | None:
    """Returns the file of a dead holder, or None if there is no file.

    Raises:
      UserError: the holder lives.
    """
    with turn(self._workdir):
      data = holders.read(self._path)
    if data is None:
      return None
    current = holders.parse(data)
    alive = None if current is None else current.alive
    if alive:
      raise self._in_use(current)
    if alive is None and not self._is_old(kind):
      self._watch(data, kind)
    return data

  def _take(self, dead: bytes | None, kind: str) -> Holder | None:
    """Creates the file if there is none, or still the dead holder's.

    Returns:
      This process as the holder; None if another start was first.
    """
    me = holders.this_process(self._what)
    with turn(self._workdir):
      if holders.read(self._path) != dead:
        return None
      if dead is not None:
        self._path.unlink(missing_ok=True)
      if not holders.create(self._path, me):
        return None
    if kind != "local":
      time.sleep(self._settle_seconds)
      current = holders.parse(holders.read(self._path))
      if current is None or current.token != me.token:
        return None
    return me

  def _watch(self, data: bytes, kind: str) -> None:
    """Returns once the file is gone, or has stayed as it is long enough.

    Raises:
      UserError: the file changed, so its holder lives.
    """
    seconds, current = self._stale_seconds, holders.parse(data)
    if kind == "mounted":
      seconds += min(seconds, _CACHE_SECONDS)
    _say(
        f"{self._path} is there: waiting up to {seconds:g} s to see whether"
        f" {_name(current)} still lives."
    )
    end, late = time.monotonic() + seconds, False
    while not late:
      time.sleep(min(seconds / 50, 1.0))
      # The clock comes first: if this process is suspended between the two, it
      # still reads the file after the end.
      late = time.monotonic() >= end
      latest = holders.read(self._path)
      if latest is None:
        return
      if latest != data:
        raise self._in_use(holders.parse(latest) or current)
    _say(f"There was no sign of life for {seconds:g} s: taking the lock over.")

  def _is_old(self, kind: str) -> bool:
    """Whether the file is older than that of any living holder.

    It is compared with a new file, because only the server's clock dated both.
    That file is not written unless this host's clock agrees: a start that is
    refused changes nothing.
    """
    limit = 10 * self._stale_seconds
    with contextlib.suppress(FileNotFoundError):
      written = self._path.stat().st_mtime
      if kind == "mounted" or time.time() - written <= limit:
        return False
      probe = self._workdir / f".{self._path.name}.{secrets.token_hex(8)}"
      try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime - written > limit
      finally:
        probe.unlink(missing_ok=True)
    return False

  def _in_use(self, current: Holder | None) -> UserError:
    kill = ""
    if current is not None:
      kill = f" (kill {current.pid}{' there' if current.alive is None else ''})"
    return UserError(
        f"A workdir belongs to one {self._what} at a time; {self._workdir} is"
        f" in use by {_name(current)}. Wait for it, stop it{kill}, or use"
        " another --workdir."
    )

  def _beat(self) -> None:
    while not self._stop.wait(self._beat_seconds):
      # The lock is not lost if the file cannot be reached for a while.
      with contextlib.suppress(OSError):
        if self._renew():
          return

  def _renew(self) -> bool:
    """Counts the heartbeat up; returns whether the lock is lost."""
    me = self._me
    assert me is not None, "the thread ends before the lock is released"
    later = dataclasses.replace(me, beat=me.beat + 1)
    try:
      # One and the same open file is read and written. If another process puts
      # its own file in place between the two, that one stays as it is.
      with self._path.open("r+b", buffering=0) as file:
        current = holders.parse(file.read())
        if current is not None and not self._is_lost(current):
          file.seek(0)
          file.write(later.text())
          self._me = later
    except FileNotFoundError:  # somebody removed it
      holders.create(self._path, me)
      return False
    return current is not None and current.token != me.token

  def _is_lost(self, current: Holder | None) -> bool:
    if current is None or self._me is None or current.token == self._me.token:
      return False
    self._on_lost(
        f"{self._workdir} was taken over by {_name(current)}, because this"
        " process was suspended or could not reach its files. It ends without"
        " writing anything more."
    )
    return True


def _name(current: Holder | None) -> str:
  return "the process that wrote it" if current is None else current.name


@contextlib.contextmanager
def _explaining(folder: Path) -> Iterator[None]:
  """Turns an OSError of the body into one line."""
  try:
    yield
  except OSError as e:
    if e.errno in NO_ROOM:  # the command line says it
      raise
    raise UserError(
        f"The workdir must be a folder that can be written to: {folder}"
        f" ({e.strerror}). Give another --workdir."
    ) from None


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
