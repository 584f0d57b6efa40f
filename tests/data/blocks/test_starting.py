"""A start finds room or says what is needed; an epoch is read exactly once."""

import contextlib
import itertools
import os
from pathlib import Path
import tempfile

from block_fakes import NumberBlocks
from block_fakes import RangeBlocks
import numpy as np
import pytest
import servers

from siglip_jax.data.blocks import starting
from siglip_jax.data.blocks.starting import start
from siglip_jax.data.lanes import Lanes
from siglip_jax.data.lanes import Window
from siglip_jax.data.order import Laned
from siglip_jax.errors import UserError


def windows():
  """Two lanes whose windows hold 5 different blocks, and then others."""
  yield Window(3, 9, (0, 1, 2))
  yield Window(3, 9, (2, 3, 4))
  for i in range(2, 10**6):
    yield Window(5 * i, 5 * i + 4, (3 * i, 3 * i + 1, 3 * i + 2))


def started(source, **kwargs):
  return contextlib.closing(start(source, windows(), **kwargs))


def test_blocks_go_to_a_new_folder_that_goes_at_the_end(tmp_path):
  source = NumberBlocks()
  with started(source, cache_dir=str(tmp_path / "new")) as ahead:
    path = Path(ahead.folder.path)
    assert path.parent == tmp_path / "new"
    assert ahead.folder.wait(4)
    assert source.folder is ahead.folder
  assert not list((tmp_path / "new").iterdir())


def test_by_default_the_folder_is_in_memory_if_that_has_room(
    tmp_path, monkeypatch
):
  memory, disk = tmp_path / "memory", tmp_path / "disk"
  memory.mkdir()
  disk.mkdir()
  free = {memory: 500, disk: 10**6}
  monkeypatch.setattr(starting, "_MEMORY", memory)
  monkeypatch.setattr(tempfile, "tempdir", str(disk))
  monkeypatch.setattr(starting.room, "free", free.get)
  for size, place in ((100, memory), (101, disk)):
    with started(NumberBlocks(size)) as ahead:
      assert Path(ahead.folder.path).parent == place


@pytest.mark.parametrize(
    "size, free, limit", [(100, 10_000, 825), (100, 770, 700), (100, 500, 500)]
)
def test_the_default_limit_leaves_room_for_the_next_windows_if_there_is(
    tmp_path, monkeypatch, size, free, limit
):
  monkeypatch.setattr(starting.room, "free", lambda place: free)
  with started(NumberBlocks(size), cache_dir=str(tmp_path)) as ahead:
    assert ahead._max_bytes == pytest.approx(limit, abs=1)


def test_lanes_that_begin_with_short_windows_count_with_their_full_ones():
  """Three lanes, whose first windows have 1, 2 and 3 blocks, then all 3."""
  starts = [
      Window(0, 3 * n - 1, tuple(range(9 * n, 10 * n))) for n in (1, 2, 3)
  ]
  more = (
      Window(first, first + 8, (first, first + 100, first + 200))
      for first in range(3, 10**6, 3)
  )
  windows, schedule = starting._first_windows(itertools.chain(starts, more))
  assert len(windows) < 10
  assert str(starting._need(NumberBlocks(10**6), windows)) == (
      "3 windows with 9 blocks of 1.0 MB"
  )
  assert next(schedule) == starts[0]


def test_too_small_a_limit_says_what_is_needed(tmp_path):
  source = NumberBlocks(10**9)
  with pytest.raises(UserError) as error:
    start(source, windows(), cache_dir=str(tmp_path), cache_gb=4.9)
  for words in (
      "5 GB (2 windows with 5 blocks of 1000.0 MB)",
      "got 4.9",
      "lower lanes, window or block_mb of config.data.order",
  ):
    assert words in str(error.value)
  assert not source.written


@pytest.mark.parametrize("cache_gb", [None, 6e-6])
def test_too_small_a_disk_says_what_is_needed(tmp_path, monkeypatch, cache_gb):
  monkeypatch.setattr(starting.room, "free", lambda place: 4_000)
  with pytest.raises(
      UserError, match="free are 4e-06 GB in .*config.data.cache"
  ):
    start(
        NumberBlocks(1000),
        windows(),
        cache_dir=str(tmp_path),
        cache_gb=cache_gb,
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kwargs",
    [{"cache_gb": c} for c in (0, -1, "4", True)]
    + [{"in_flight": n} for n in (0, 1.5, True, 10**6, "8")],
    ids=str,
)
def test_a_setting_that_is_not_a_number_in_range_is_an_error(kwargs):
  name, value = next(iter(kwargs.items()))
  with pytest.raises(UserError, match=f"config.data.{name} .*got {value!r}"):
    starting.check(**{"cache_gb": None, "in_flight": 16} | kwargs)


def test_an_epoch_over_a_bad_network_has_each_sample_once(tmp_path):
  """4 lanes, windows of 4 of 60 blocks; a fifth of the answers are faults."""
  count, size = 1200, 500
  data = np.random.default_rng(0).bytes(count * size)
  (tmp_path / "x").write_bytes(data)
  with servers.RangeServer(
      tmp_path, latency=0.002, faults=0.2, stall=1.0
  ) as server:
    source = RangeBlocks(
        f"{server.url}/x",
        count=count,
        size=size,
        per_block=20,
        retries=servers.QUICK,
    )
    lanes = Lanes(np.array(source.block_starts), lanes=4, window=4, seed=0)
    order = Laned(lanes, seed=0)
    schedule = order.schedule(range(4), 0)
    # No block of the next epoch, which would be fetched as well.
    schedule = itertools.takewhile(lambda w: w.first < lanes.turns, schedule)
    ahead = start(
        source,
        schedule,
        cache_dir=str(tmp_path / "blocks"),
        cache_gb=2.2 * 16 * 20 * size / 1e9,
        in_flight=8,
        patience=30.0,
    )
    seen = []
    with contextlib.closing(ahead):
      for turn in range(lanes.turns):
        for lane in range(4):
          index = order.index(turn * 4 + lane)
          assert source[index] == data[index * size : (index + 1) * size]
          seen.append(index)
        ahead.advance(turn + 1)
    assert sorted(seen) == list(range(count))
    assert ahead.bytes_fetched <= 1.05 * len(data)
    assert ahead.folder.missed == 0
    assert sum(server.counts[f] for f in servers.range_server.FAULTS) > 5
    assert server.counts["GET"] < 120
  assert not os.listdir(tmp_path / "blocks")
