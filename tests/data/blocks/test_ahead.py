"""Blocks are there when they are needed, and no longer."""

import contextlib
import errno
import pathlib
import threading
import time

from block_fakes import NumberBlocks
from block_fakes import content
import numpy as np
import pytest

from siglip_jax.data.blocks.ahead import ReadAhead
from siglip_jax.data.blocks.folder import Folder
from siglip_jax.data.lanes import Window
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

PATIENT = 60.0  # seconds; no test waits so long


def read_ahead(source, windows, path, **kwargs):
  """A ReadAhead that closes at the end of `with`."""
  kwargs = {"max_bytes": 10**9, "in_flight": 4} | kwargs
  folder = Folder(path, patience=PATIENT)
  return contextlib.closing(ReadAhead(source, windows, folder, **kwargs))


def until(condition):
  """Waits until something is so."""
  end = time.monotonic() + PATIENT
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.002)


def test_blocks_come_in_the_order_of_the_schedule(tmp_path):
  source = NumberBlocks()
  windows = [Window(0, 9, (5, 3)), Window(0, 9, (8,)), Window(10, 19, (1, 2))]
  with read_ahead(source, windows, tmp_path, in_flight=1) as ahead:
    for block in (5, 3, 8, 1, 2):
      path = ahead.folder.wait(block)
      assert path is not None and path.read_bytes() == content(block)
  assert source.written == [5, 3, 8, 1, 2]


@pytest.mark.parametrize("in_flight", [1, 5])
def test_a_long_schedule_needs_little_room(tmp_path, in_flight):
  """Three lanes of staggered windows, each block once, room for 16 blocks."""
  source = NumberBlocks()
  blocks = iter(np.random.default_rng(0).permutation(240).tolist())
  windows = []
  for first in range(0, 100, 5):
    for lane in range(3):
      four = tuple(next(blocks) for _ in range(4))
      windows.append(Window(first + lane, first + lane + 4, four))
  with read_ahead(
      source, windows, tmp_path, max_bytes=1600, in_flight=in_flight
  ) as ahead:
    for turn in range(107):
      for window in windows:
        if window.first <= turn <= window.last:
          for block in window.blocks:
            path = ahead.folder.wait(block)
            assert path is not None and path.read_bytes() == content(block)
      ahead.advance(turn + 1)
    assert not [p for p in tmp_path.iterdir()]
    assert ahead.bytes_held == 0
    assert (ahead.blocks_fetched, ahead.bytes_fetched) == (240, 24_000)
  assert sorted(source.written) == list(range(240))
  assert source.largest <= 1600


def test_a_block_goes_with_the_last_turn_that_needs_it(tmp_path):
  source = NumberBlocks()
  with read_ahead(source, [Window(0, 4, (1,))], tmp_path) as ahead:
    assert ahead.folder.wait(1)
    ahead.advance(4)
    assert ahead.folder.wait(1)
    ahead.advance(5)
    assert ahead.folder.wait(1) is None


def test_windows_that_share_a_block_fetch_it_once(tmp_path):
  source = NumberBlocks()
  windows = [Window(0, 9, (1, 2)), Window(3, 5, (2, 3)), Window(10, 12, (2,))]
  with read_ahead(source, windows, tmp_path, in_flight=1) as ahead:
    for block in (1, 2, 3):
      assert ahead.folder.wait(block)
    for turn in range(13):
      ahead.advance(turn)
      assert ahead.folder.wait(2)
    ahead.advance(13)
    assert ahead.folder.wait(2) is None
  assert source.written == [1, 2, 3]


def test_a_block_that_comes_back_later_is_fetched_again(tmp_path):
  source = NumberBlocks()
  windows = [Window(0, 1, (1, 2)), Window(2, 3, (3, 4)), Window(4, 5, (1, 2))]
  with read_ahead(source, windows, tmp_path, max_bytes=200) as ahead:
    for turn, block in enumerate((1, 2, 3, 4, 1, 2)):
      ahead.advance(turn)
      assert ahead.folder.wait(block)
  assert sorted(source.written) == [1, 1, 2, 2, 3, 4]


def test_a_block_that_comes_too_late_is_counted_and_deleted(tmp_path):
  source = NumberBlocks()
  source.gates = {1: threading.Event()}
  windows = [Window(0, 1, (1, 2)), Window(5, 9, (3,))]
  with read_ahead(source, windows, tmp_path, max_bytes=200) as ahead:
    assert ahead.folder.wait(2)
    ahead.advance(5)
    source.gates[1].set()
    assert ahead.folder.wait(3)
    until(lambda: ahead.bytes_held == 100)
    assert ahead.folder.wait(1) is None
    assert ahead.late_blocks >= 1


def test_blocks_that_nobody_needs_any_more_are_not_fetched(tmp_path):
  source = NumberBlocks()
  source.gates = {1: threading.Event()}
  windows = [Window(0, 1, (1, 2, 3)), Window(5, 9, (4,))]
  with read_ahead(source, windows, tmp_path, in_flight=1) as ahead:
    until(lambda: 1 in source.written)
    ahead.advance(2)
    source.gates[1].set()
    assert ahead.folder.wait(4)
  assert source.written == [1, 4]


def test_a_small_set_stays_whole_over_an_endless_schedule(tmp_path):
  source = NumberBlocks()
  windows = (Window(t, t, (t % 3,)) for t in range(10**9))
  with read_ahead(source, windows, tmp_path) as ahead:
    for turn in range(2000):
      assert ahead.folder.wait(turn % 3)
      ahead.advance(turn + 1)
    assert len(ahead._ends) < 1000
  assert sorted(source.written) == [0, 1, 2]


def test_a_schedule_that_fails_ends_the_run(tmp_path):
  def windows():
    yield Window(0, 0, (1,))
    raise ZeroDivisionError("a bug")

  with read_ahead(NumberBlocks(), windows(), tmp_path) as ahead:
    with pytest.raises(ZeroDivisionError, match="a bug"):
      ahead.advance(0)


NETWORK = OSError("s3://b/x could not be read in 10 tries")


@pytest.mark.parametrize(
    "error, kind, reason",
    [
        (UserError("x must not change"), UserError, "x must not change"),
        (NETWORK, TryAgain, "cannot be read ahead: s3://b/x could not"),
        (OSError(errno.ENOSPC, "No space"), UserError, "cache_dir"),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
    ids=repr,
)
def test_a_fetch_that_fails_ends_the_run(tmp_path, error, kind, reason):
  source = NumberBlocks()
  source.errors = {2: error}
  windows = [Window(0, 9, (1, 2, 3, 4, 5))]
  with read_ahead(source, windows, tmp_path, in_flight=1) as ahead:
    assert ahead.folder.wait(1)
    assert ahead.folder.wait(2) is None  # and it is not waited for
    assert ahead.folder.wait(5) is None
    for _ in range(2):
      with pytest.raises(kind, match=reason):
        ahead.advance(1)


def test_an_end_removes_the_folder_and_its_threads(tmp_path):
  source, removed = NumberBlocks(), []
  windows = (Window(t, t, (t,)) for t in range(10**9))
  before = threading.active_count()
  ahead = ReadAhead(
      source,
      windows,
      Folder(tmp_path),
      max_bytes=500,
      in_flight=3,
      remove=lambda: removed.append(1),
  )
  until(lambda: ahead.blocks_fetched == 5)  # the threads wait for room
  ahead.close()
  ahead.close()
  assert removed == [1]
  assert threading.active_count() == before
  assert ahead.coming == 0


def test_an_end_does_not_wait_for_a_server(tmp_path, monkeypatch):
  monkeypatch.setattr("siglip_jax.data.blocks.ahead._JOIN_SECONDS", 0.01)
  source = NumberBlocks()
  source.gates = {1: threading.Event()}
  removed = []

  def remove():
    (tmp_path / "1.part").unlink()
    tmp_path.rmdir()
    removed.append(1)

  ahead = ReadAhead(
      source,
      [Window(0, 9, (1,))],
      Folder(tmp_path),
      max_bytes=500,
      in_flight=1,
      remove=remove,
  )
  until(lambda: source.written)
  ahead.close()
  source.gates[1].set()  # the thread finds its folder gone, and ends
  until(lambda: not ahead._threads[0].is_alive())
  assert removed and not pathlib.Path(tmp_path).exists()
