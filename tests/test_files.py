"""Files appear whole or not at all, and remote ones are read or named."""

import errno
import os
import stat
import sys

import fsspec
import pytest

from siglip_jax import files
from siglip_jax.errors import UserError


def test_local_and_remote_files_are_read_and_missing_ones_are_none(tmp_path):
  (tmp_path / "a").write_bytes(b"here")
  fsspec.filesystem("memory").pipe_file("/bucket/a", b"there")
  assert files.read_bytes(tmp_path / "a") == b"here"
  assert files.read_bytes("memory://bucket/a") == b"there"
  for path in (tmp_path / "b", tmp_path, "memory://bucket/b"):
    assert files.read_bytes(path) is None


@pytest.mark.parametrize("path", ["gs://a/b.npz", "nowhere://a/b"])
def test_a_place_that_cannot_be_reached_is_named(path, monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)  # as where it is missing
  with pytest.raises(UserError, match=f"{path} cannot be reached: .*gcsfs"):
    files.read_bytes(path)


def test_a_file_is_replaced_in_one_move(tmp_path):
  path = tmp_path / "config.json"
  path.write_text("old")
  with files.replacing(path) as partial:
    partial.write_text("new")
    assert path.read_text() == "old"
  assert path.read_text() == "new"
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path):
  path = tmp_path / "config.json"
  path.write_text("old")
  with pytest.raises(ZeroDivisionError):
    with files.replacing(path) as partial:
      partial.write_text("half")
      raise ZeroDivisionError
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_file_system_that_cannot_sync_still_keeps_the_file(
    tmp_path, monkeypatch
):
  def cannot(fd):
    number = errno.EIO if stat.S_ISDIR(os.fstat(fd).st_mode) else errno.EINVAL
    raise OSError(number, "not here")

  monkeypatch.setattr(os, "fsync", cannot)
  with files.replacing(tmp_path / "a") as partial:
    partial.write_text("whole")
  assert (tmp_path / "a").read_text() == "whole"


def test_a_disk_that_fails_is_not_passed_over(tmp_path, monkeypatch):
  def fails(fd):
    raise OSError(errno.ENOSPC, "full")

  (tmp_path / "a").write_text("old")
  monkeypatch.setattr(os, "fsync", fails)
  with pytest.raises(OSError, match="full"):
    with files.replacing(tmp_path / "a") as partial:
      partial.write_text("new")
  assert (tmp_path / "a").read_text() == "old"


def test_what_a_killed_process_left_does_not_get_into_the_file(tmp_path):
  (tmp_path / "a.part").write_text("left")
  with files.replacing(tmp_path / "a") as partial:
    with partial.open("a") as f:
      f.write("whole")
  assert (tmp_path / "a").read_text() == "whole"
