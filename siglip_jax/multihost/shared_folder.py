"""Folders that processes share: their file system, and turns in them."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
from pathlib import Path
import time

import psutil

from siglip_jax.errors import TryAgain

_SERVERS = tuple(
    "nfs cifs smb 9p virtiofs lustre ceph gluster gpfs beegfs afs weka".split()
)


def file_system(folder: Path) -> str:
  """Returns the kind of file system that a folder lies on.

  Returns:
    "local", "server" (NFS and the like) or "mounted" (buckets, and all else
    that a program serves through FUSE).
  """
  path = folder.resolve()
  deepest, kind = Path("/"), ""
  for part in psutil.disk_partitions(all=True):
    point = Path(part.mountpoint)
    if path.is_relative_to(point) and point.is_relative_to(deepest):
      deepest, kind = point, part.fstype.lower()
  if kind.startswith("fuse") and kind != "fuseblk":  # a local disk through FUSE
    return "mounted"
  return "server" if kind.startswith(_SERVERS) else "local"


@contextlib.contextmanager
def turn(folder: Path, *, seconds: float = 10.0) -> Iterator[None]:
  """Lets one process of this machine at a time run the body, which is short.

  It locks the folder itself, which needs no further file and changes nothing.
  Where a file system has no such locks, as NFS for folders, the body runs all
  the same.

  Args:
    folder: an existing folder.
    seconds: time limit for the turns of others.

  Raises:
    TryAgain: another process does not end its turn.
  """
  fd = os.open(folder, os.O_RDONLY)
  try:
    _lock(fd, folder, seconds)
    yield
  finally:
    os.close(fd)


def _lock(fd: int, folder: Path, seconds: float) -> None:
  end = time.monotonic() + seconds
  while True:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except BlockingIOError:
      if time.monotonic() > end:
        raise TryAgain(
            f"Another process is starting in {folder} and does not go on: stop"
            " it, then start the same command again."
        ) from None
      time.sleep(0.005)
    except OSError:
      return
