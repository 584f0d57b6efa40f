"""Ranges are exact, whatever the network does."""

from concurrent import futures
import os
import pickle
import threading

import numpy as np
import pytest
import servers

from siglip_jax.data.remote import Ranges
from siglip_jax.data.remote import ranges
from siglip_jax.data.remote import stats
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


@pytest.fixture
def data(tmp_path):
  """The bytes of the file x."""
  data = np.random.default_rng(0).bytes(300_000)
  (tmp_path / "x").write_bytes(data)
  return data


@pytest.fixture
def small_pieces(monkeypatch):
  monkeypatch.setattr(ranges, "PIECE", 10_000)


SPANS = [(0, 300_000), (0, 1), (299_999, 1), (9_999, 10_002), (5, 0), (7, 100)]


@pytest.mark.parametrize("place", ["local", "http"])
def test_a_range_is_what_lies_there(tmp_path, data, place, small_pieces):
  with servers.RangeServer(tmp_path) as server:
    start = tmp_path if place == "local" else server.url
    reader = Ranges([f"{start}/x"])
    for offset, size in SPANS:
      expected = data[offset : offset + size]
      assert reader.read(0, offset, size) == expected
      reader.save(0, offset, size, tmp_path / "saved")
      assert (tmp_path / "saved").read_bytes() == expected


@pytest.mark.parametrize("kind", servers.range_server.FAULTS)
def test_a_fault_changes_nothing(tmp_path, data, kind, small_pieces):
  with servers.RangeServer(
      tmp_path, faults=0.3, kinds=(kind,), stall=1.0
  ) as server:
    reader = Ranges([f"{server.url}/x"], retries=servers.QUICK)
    assert reader.read(0, 5, 200_000) == data[5:200_005]
    assert server.counts[kind] > 2


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_large_read_has_several_requests_out(
    tmp_path, data, in_flight, small_pieces
):
  with servers.RangeServer(tmp_path, latency=0.01) as server:
    Ranges([f"{server.url}/x"], in_flight=in_flight).read(0, 0, 300_000)
    # The server may count a request until after its answer has come.
    assert in_flight <= server.most_at_once <= in_flight + 1
    assert server.counts == {"GET": 30, "bytes": 300_000}


def test_a_pickle_reads_the_same(tmp_path, data):
  reader = pickle.loads(pickle.dumps(Ranges([str(tmp_path / "x")])))
  assert reader.read(0, 10, 10) == data[10:20]


@pytest.mark.parametrize("replaced", [b"other", b"." * 300_000])
def test_a_file_that_was_replaced_is_named(tmp_path, data, replaced):
  with servers.RangeServer(tmp_path) as server:
    path = f"{server.url}/x"
    etags = [s.etag for s in stats.stat([path])]
    reader = Ranges([path], etags=etags)
    assert reader.read(0, 0, 5) == data[:5]
    (tmp_path / "x").write_bytes(replaced)
    with pytest.raises(UserError, match=f"{path} must not change"):
      reader.read(0, 0, 5)


@pytest.mark.parametrize("place", ["local", "http"])
def test_a_file_that_is_too_short_is_named(tmp_path, data, place):
  with servers.RangeServer(tmp_path) as server:
    start = tmp_path if place == "local" else server.url
    with pytest.raises(UserError, match="must hold 11 bytes from 299990 on"):
      Ranges([f"{start}/x"]).read(0, 299_990, 11)


def test_a_server_that_never_recovers_is_given_up(tmp_path, data):
  with servers.RangeServer(tmp_path, faults=1.0, kinds=("503",)) as server:
    reader = Ranges([f"{server.url}/x"], retries=servers.QUICK)
    with pytest.raises(TryAgain, match="bytes 3 to 7.*8 tries.*503 Service"):
      reader.read(0, 3, 4)
    assert server.counts["GET"] == 8


def test_a_server_without_ranges_is_named(tmp_path, data):
  with servers.RangeServer(tmp_path, ranges=False) as server:
    with pytest.raises(UserError, match="answers range requests"):
      Ranges([f"{server.url}/x"]).read(0, 3, 4)


def test_a_local_file_that_went_away_is_named(tmp_path):
  with pytest.raises(UserError, match="it is gone"):
    Ranges([f"{tmp_path}/gone"]).read(0, 0, 1)


def test_threads_may_read_more_files_than_stay_open(tmp_path, monkeypatch):
  """A file that the cache drops is not closed under another thread's read."""
  monkeypatch.setattr(ranges, "_OPEN", 2)
  paths = []
  for i in range(40):
    paths.append(str(tmp_path / f"{i}"))
    (tmp_path / f"{i}").write_bytes(bytes([i]) * 1000)
  reader = Ranges(paths)
  before = len(os.listdir("/proc/self/fd"))
  barrier = threading.Barrier(8)

  def read(thread):
    barrier.wait()
    rng = np.random.default_rng(thread)
    for i in rng.integers(40, size=300).tolist():
      assert reader.read(i, 10, 900) == bytes([i]) * 900

  with futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(read, range(8)))
  assert len(os.listdir("/proc/self/fd")) <= before + 2
