"""No end of a process leaves its folder behind."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from siglip_jax.data.blocks import room
from siglip_jax.errors import UserError

# Prints its folder and its helper's process, and sleeps or ends.
_CLAIM = """
import os, sys, time
from pathlib import Path
from siglip_jax.data.blocks import room
claim = room.claim(Path(sys.argv[1]))
(Path(claim.path) / "7").write_bytes(b"abc")
print(claim.path, claim._remover.pid, flush=True)
if sys.argv[2] == "exit":
  os._exit(75)
time.sleep(60)
"""


def holder(place, end):
  """A process with a folder, and the process of its helper."""
  process = subprocess.Popen(
      [sys.executable, "-c", _CLAIM, str(place), end],
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
  )
  path, helper = process.stdout.readline().split()
  process.stdout.close()
  return process, Path(path), int(helper)


def gone(path, seconds=5.0):
  """Whether a path goes away soon."""
  end = time.monotonic() + seconds
  while path.exists() and time.monotonic() < end:
    time.sleep(0.01)
  return not path.exists()


@pytest.mark.parametrize("end", ["kill", "group", "exit"])
def test_a_process_that_ends_at_once_leaves_nothing(tmp_path, end):
  process, path, _ = holder(tmp_path, end)
  if end == "kill":
    process.kill()
  elif end == "group":
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert gone(path)


def test_a_folder_that_was_left_behind_goes_at_the_next_start(tmp_path):
  process, path, helper = holder(tmp_path, "sleep")
  room.remove_stale(tmp_path)
  assert (path / "7").exists()  # its process lives
  os.kill(helper, signal.SIGKILL)
  process.kill()
  process.wait()
  assert (path / "7").exists()
  room.remove_stale(tmp_path)
  assert not path.exists()


def test_a_release_removes_the_folder(tmp_path):
  claims = [room.claim(tmp_path) for _ in range(2)]
  assert claims[0].path != claims[1].path
  claims[0].release()
  assert [str(p) for p in tmp_path.iterdir()] == [claims[1].path]
  claims[1].release()


def test_a_folder_that_is_being_made_is_left_alone(tmp_path):
  young, old = tmp_path / f"{room._PREFIX}a", tmp_path / f"{room._PREFIX}b"
  for path in (young, old, tmp_path / "other"):
    path.mkdir()
  os.utime(old, (0, 0))
  os.utime(tmp_path / "other", (0, 0))
  room.remove_stale(tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["other", young.name]


def test_a_place_is_made_and_must_be_a_folder(tmp_path):
  room.remove_stale(tmp_path / "a" / "b")
  assert (tmp_path / "a" / "b").is_dir()
  (tmp_path / "file").touch()
  for act in (room.remove_stale, room.claim):
    with pytest.raises(UserError, match="cache_dir must be a folder"):
      act(tmp_path / "file" / "x")


def test_a_disk_in_memory_has_no_more_room_than_memory(monkeypatch):
  memory = type("Memory", (), {"available": 123})
  monkeypatch.setattr(room.psutil, "virtual_memory", memory)
  assert room.free(Path("/")) > 123
  if Path("/dev/shm").is_dir():
    assert room.free(Path("/dev/shm")) == 123
