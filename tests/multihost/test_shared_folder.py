"""Folders that processes share."""

import collections
import errno
import fcntl
from pathlib import Path
import subprocess
import sys

import pytest

from siglip_jax.errors import TryAgain
from siglip_jax.multihost import shared_folder

Part = collections.namedtuple("Part", "mountpoint fstype")


@pytest.mark.parametrize(
    "kinds, kind",
    [
        ({"/": "ext4"}, "local"),
        ({"/": "ext4", "/a": "nfs4"}, "server"),
        ({"/": "ext4", "/a/b": "fuse.gcsfuse", "/a": "nfs"}, "mounted"),
        ({"/": "9p", "/a/b/c": "tmpfs"}, "local"),
        ({"/": "overlay", "/a/b/cd": "cifs"}, "local"),
        ({"/a/b": "fuseblk"}, "local"),
        ({"/a/b": "autofs", "/a/b/": "nfs4"}, "server"),
        ({}, "local"),
    ],
)
def test_a_folder_lies_on_the_innermost_mount(monkeypatch, kinds, kind):
  parts = [Part(*item) for item in kinds.items()]
  monkeypatch.setattr(
      shared_folder.psutil, "disk_partitions", lambda all: parts
  )
  assert shared_folder.file_system(Path("/a/b/c/gone")) == kind


# Ends its turn when its standard input ends.
_TURN = """
import sys
from siglip_jax.multihost import shared_folder
with shared_folder.turn(sys.argv[1]):
  print("in", flush=True)
  sys.stdin.read()
"""


def test_turns_do_not_overlap(tmp_path):
  with subprocess.Popen(
      [sys.executable, "-c", _TURN, str(tmp_path)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
  ) as other:
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(TryAgain, match="is starting in .* and does not go on"):
      with shared_folder.turn(tmp_path, seconds=0.05):
        pytest.fail("two at once")
    other.stdin.close()
    with shared_folder.turn(tmp_path, seconds=60):
      pass
  assert not list(tmp_path.iterdir())


def test_without_locks_of_folders_the_body_runs_all_the_same(
    tmp_path, monkeypatch
):
  def flock(fd, how):
    raise OSError(errno.EBADF, "as NFS says of folders")

  monkeypatch.setattr(fcntl, "flock", flock)
  with shared_folder.turn(tmp_path):
    ran = True
  assert ran
