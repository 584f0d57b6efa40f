"""Readers wait for a block that is coming, and for no other."""

import os
import pickle
import threading
import time

import pytest

from siglip_jax.data.blocks.folder import Folder


def test_a_block_that_nobody_fetches_is_not_waited_for(tmp_path):
  folder = Folder(tmp_path, patience=60.0)
  begin = time.monotonic()
  assert folder.wait(3) is None
  assert time.monotonic() - begin < 10
  assert folder.missed == 0


@pytest.mark.parametrize("name", ["3.part", "3.next"])
def test_a_block_that_is_coming_is_waited_for(tmp_path, name):
  folder = Folder(tmp_path, patience=60.0)
  coming = tmp_path / name
  coming.write_bytes(b"abc")
  timer = threading.Timer(0.05, coming.rename, [tmp_path / "3"])
  timer.start()
  path = folder.wait(3)
  assert path is not None and path.read_bytes() == b"abc"
  assert 0.04 < folder.waited < 30
  timer.join()


@pytest.mark.parametrize("name", ["3.part", "3.next"])
def test_patience_ends(tmp_path, name):
  folder = Folder(tmp_path, patience=0.05)
  (tmp_path / name).touch()
  assert folder.wait(3) is None
  assert folder.missed == 1
  assert 0.04 < folder.waited < 30


def test_a_request_that_hangs_already_is_not_waited_for_again(tmp_path):
  folder = Folder(tmp_path, patience=60.0)
  (tmp_path / "3.part").touch()
  os.utime(tmp_path / "3.part", (0, 0))
  assert folder.wait(3) is None
  assert folder.waited < 30


class GrowingClock:
  """A clock on which a file grows at each sleep, for ten seconds."""

  def __init__(self, part):
    self.now, self._part = 1000.0, part
    self.sleep(0)

  def time(self):
    return self.now

  monotonic = time

  def sleep(self, seconds):
    self.now += seconds
    self._part.touch()
    os.utime(self._part, (self.now, self.now))
    if self.now > 1010:
      self._part.rename(self._part.with_suffix(""))


def test_a_block_that_grows_is_waited_for_longer(tmp_path, monkeypatch):
  clock = GrowingClock(tmp_path / "3.part")
  monkeypatch.setattr("siglip_jax.data.blocks.folder.time", clock)
  folder = Folder(tmp_path, patience=0.5)
  assert folder.wait(3) == tmp_path / "3"
  assert folder.waited > 10
  assert folder.missed == 0


def test_a_fetch_that_failed_is_not_waited_for(tmp_path):
  folder = Folder(tmp_path, patience=60.0)
  (tmp_path / "3.part").touch()
  timer = threading.Timer(0.05, (tmp_path / "3.part").unlink)
  timer.start()
  assert folder.wait(3) is None
  timer.join()


def test_a_pickle_is_small_and_looks_at_the_same_folder(tmp_path):
  data = pickle.dumps(Folder(tmp_path, patience=0.5))
  assert len(data) < 300
  folder = pickle.loads(data)
  (tmp_path / "7").touch()
  assert folder.wait(7) == tmp_path / "7"
  assert folder.patience == 0.5


def test_a_part_of_a_mixture_counts_its_own_blocks(tmp_path):
  folder = Folder(tmp_path).beginning(5).beginning(2)
  (tmp_path / "10").write_text("ten")
  assert folder.wait(3) == tmp_path / "10"
  again = pickle.loads(pickle.dumps(folder))
  assert again.wait(3) == tmp_path / "10" and again.wait(10) is None
