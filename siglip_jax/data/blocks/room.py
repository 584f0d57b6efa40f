"""Folders of one process each, which no end of the process leaves behind.

A folder belongs to the process that holds the lock on a file in it. A small
helper process removes the folder when its process ends in any way, also by
kill -9. If the whole machine stops, or the helper is killed as well, the next
start on the machine finds the lock free and removes the folder.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import shutil
import subprocess
import tempfile
import time

import psutil

from siglip_jax.errors import UserError

_PREFIX = "siglip_jax_blocks_"
_LOCK = "lock"
_YOUNG = 60.0  # seconds in which a folder may still be about to get its lock
# Waits until its standard input ends, then removes the folder.
_REMOVER = 'read -r line; rm -rf -- "$0"'


class Claim:
  """A new folder, and the hold on it."""

  def __init__(self, path: str, lock: int):
    self.path, self._lock = path, lock
    # In a session of its own, so that no signal for the run's group ends it.
    self._remover = subprocess.Popen(
        ["sh", "-c", _REMOVER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

  def release(self) -> None:
    """Removes the folder."""
    assert self._remover.stdin is not None
    self._remover.stdin.close()
    self._remover.wait()
    shutil.rmtree(self.path, ignore_errors=True)  # if the helper was killed
    os.close(self._lock)


def claim(place: Path) -> Claim:
  """Makes a folder in a place.

  Raises:
    UserError: it cannot be made there, or not be locked.
  """
  try:
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
  except OSError as e:
    raise _unfit(place, e) from None
  try:
    return Claim(path, _locked(path))
  except OSError as e:
    shutil.rmtree(path, ignore_errors=True)
    raise _unfit(place, e) from None


def _locked(path: str) -> int:
  """Returns the open file of a folder's lock, which this process holds."""
  # It gets its name when it is locked: nobody sees it without.
  new = os.path.join(path, f"{_LOCK}.new")
  lock = os.open(new, os.O_CREAT | os.O_RDWR)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(new, os.path.join(path, _LOCK))
  except OSError:
    os.close(lock)
    raise
  return lock


def remove_stale(place: Path) -> None:
  """Removes the folders in a place whose processes have ended.

  Makes the place if it is not there.

  Raises:
    UserError: the place is not a folder, or cannot be made.
  """
  try:
    place.mkdir(parents=True, exist_ok=True)
    folders = list(place.glob(f"{_PREFIX}*"))
  except OSError as e:
    raise _unfit(place, e) from None
  for folder in folders:
    # Another user's folder, or one that another start removes.
    with contextlib.suppress(OSError):
      if _is_stale(folder):
        shutil.rmtree(folder, ignore_errors=True)


def free(place: Path) -> int:
  """Returns the bytes that files in a folder may take.

  Files of a disk in memory may not take more memory than is available.
  """
  bytes_ = shutil.disk_usage(place).free
  if place.is_relative_to("/dev/shm"):
    bytes_ = min(bytes_, psutil.virtual_memory().available)
  return bytes_


def _is_stale(folder: Path) -> bool:
  try:
    lock = os.open(folder / _LOCK, os.O_RDWR)
  except FileNotFoundError:
    return time.time() - folder.stat().st_mtime > _YOUNG
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  finally:
    os.close(lock)
  return True


def _unfit(place: Path, error: OSError) -> UserError:
  return UserError(
      "config.data.cache_dir must be a folder on a local disk that can be"
      f" written; {place} is not: {error.strerror}. Name another one."
  )
