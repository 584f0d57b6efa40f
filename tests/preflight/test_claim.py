"""A workdir is held by one job at a time, and left as it was by a failure."""

import contextlib

import fakes
import pytest

from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.preflight.claim import claim


def names(folder):
  return {p.name for p in folder.iterdir()}


def test_one_job_at_a_time_holds_a_workdir(tmp_path):
  workdir = tmp_path / "new" / "run"
  with claim(workdir, Peers(), what="run") as folder:
    assert folder == workdir
    before = {p: p.read_bytes() for p in workdir.iterdir()}
    with pytest.raises(UserError, match="one run at a time; .*new/run is in"):
      with claim(workdir, Peers(), what="run"):
        pass
    assert {p: p.read_bytes() for p in workdir.iterdir()} == before
    # Another kind of job has a lock of its own.
    with claim(workdir, Peers(), name="w.json", what="a watch"):
      pass
  assert not (tmp_path / "new").exists()  # nothing was written


def test_a_start_that_fails_leaves_no_folder_but_what_was_there(tmp_path):
  (tmp_path / "old").mkdir()
  for name in ("old", "new"):
    with contextlib.suppress(ValueError):
      with claim(tmp_path / name, Peers(), what="run") as folder:
        assert folder.is_dir()
        raise ValueError
  assert names(tmp_path) == {"old"} and not names(tmp_path / "old")


def test_all_processes_learn_that_a_workdir_is_in_use(tmp_path):
  for again, error in ((False, UserError), (True, TryAgain)):
    said = ["A workdir belongs to one run", again]
    board = {"claimed lock.json": {0: said}}
    with pytest.raises(error, match="belongs to one run"):
      with claim(tmp_path, fakes.BoardPeers(board, 1, 2), what="r"):
        pass
