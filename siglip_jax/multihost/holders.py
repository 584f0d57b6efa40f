"""The file of a lock: which process it names, and whether that one lives."""

import dataclasses
import datetime
import errno
import json
import os
from pathlib import Path
import secrets
import shlex
import socket
import sys

import psutil

NAME = "lock.json"
_LIMIT = 65_536  # bytes of a file that are read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
  """The process that a lock's file names.

  Attributes:
    what: what it is, such as "run".
    host: name of its host.
    pid: its process id there.
    since: date and time when it took the lock, by its own clock.
    command: its command line.
    machine: a name that only processes with one process table share.
    born: time when the process started, which tells it from a later process
      with the same id.
    token: random name of this one acquisition.
    beat: number of heartbeats since.
  """

  what: str
  host: str
  pid: int
  since: str
  command: str
  machine: str
  born: str
  token: str
  beat: int = 0

  @property
  def alive(self) -> bool | None:
    """Whether it lives; None if only its heartbeat tells.

    That is so for a process on another host or in another container.
    """
    if self.machine != _machine():
      return None
    hidden = False
    try:
      os.kill(self.pid, 0)
    except ProcessLookupError:
      return False
    except PermissionError:  # another user's, who may be hidden from /proc too
      hidden = True
    born = _born(self.pid)
    if born is None:
      return None if hidden else False
    return born == self.born

  @property
  def name(self) -> str:
    """A name for messages, of one line whatever the file holds."""
    words = (self.what, self.host, self.since)
    what, host, since = (" ".join(x.split())[:100] for x in words)
    return f"the {what} on {host} (pid {self.pid}, since {since})"

  def text(self) -> bytes:
    """Returns the content of the file; a later heartbeat's is not shorter."""
    return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"


def holder(workdir: str | Path, name: str = NAME) -> Holder | None:
  """Returns the process that holds a workdir's lock, without changing anything.

  Args:
    workdir: folder of the lock.
    name: name of the lock's file.

  Returns:
    None if there is no lock, or its file cannot be read.
  """
  try:
    return parse(read(Path(workdir) / name))
  except OSError:
    return None


def this_process(what: str) -> Holder:
  """Returns this process as the holder of a lock that it takes now."""
  now = datetime.datetime.now().astimezone()
  return Holder(
      what=what,
      host=socket.gethostname(),
      pid=os.getpid(),
      since=now.isoformat(sep=" ", timespec="seconds"),
      command=shlex.join(sys.argv)[:500],
      machine=_machine(),
      born=_born(os.getpid()) or "",
      token=secrets.token_hex(16),
  )


def parse(data: bytes | None) -> Holder | None:
  """Returns the holder that a file names; None if it holds anything else."""
  try:
    values = json.loads(data or b"")
  except (ValueError, RecursionError):
    return None
  fields = dataclasses.fields(Holder)
  if not isinstance(values, dict):
    return None
  if any(type(values.get(f.name)) is not f.type for f in fields):
    return None
  if not 0 < values["pid"] < 2**31:  # others would name groups of processes
    return None
  return Holder(**{f.name: values[f.name] for f in fields})


def read(path: Path) -> bytes | None:
  """Returns the content of a file, or None if there is none.

  Raises:
    OSError: the file cannot be read.
  """
  for _ in range(5):
    try:
      with path.open("rb") as file:
        return file.read(_LIMIT)
    except FileNotFoundError:
      return None
    except OSError as e:
      if e.errno != errno.ESTALE:  # NFS: replaced since it was opened
        raise
  raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def create(path: Path, who: Holder) -> bool:
  """Creates the file of a lock; returns whether there was none.

  Raises:
    OSError: the file cannot be written. Nothing is left of it.
  """
  try:
    file = path.open("xb")
  except FileExistsError:
    return False
  try:
    with file:
      file.write(who.text())
  except BaseException:
    path.unlink(missing_ok=True)
    raise
  return True


def _machine() -> str:
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _born(pid: int) -> str | None:
  """Returns when a process started; None if there is none, or it has ended."""
  if sys.platform == "linux":
    # In ticks since boot. psutil adds the time of boot, which changes whenever
    # the clock is set.
    try:
      stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
      return None
    state, *fields = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else fields[18].decode()
  try:
    process = psutil.Process(pid)
    ended = process.status() == psutil.STATUS_ZOMBIE
    return None if ended else str(process.create_time())
  except psutil.Error:
    return None
