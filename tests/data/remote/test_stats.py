"""Sizes and etags come from any place, with few requests."""

import pytest
import servers

from siglip_jax.data.remote import stats
from siglip_jax.data.remote.stats import Stat
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  for i in range(20):
    (tmp_path / "bucket" / "x").mkdir(parents=True, exist_ok=True)
    (tmp_path / "bucket" / "x" / f"{i}.tar").write_bytes(b"." * i)
  return tmp_path


def test_places_agree(folder, monkeypatch):
  paths = [folder / "bucket" / "x" / f"{i}.tar" for i in (3, 0, 7)]
  etags = [stats.bare(servers.range_server.etag(p)) for p in paths]
  remote = [Stat(s, e) for s, e in zip((3, 0, 7), etags, strict=True)]
  with servers.buckets(folder, monkeypatch) as server:
    names = [f"bucket/x/{i}.tar" for i in (3, 0, 7)]
    assert stats.stat([f"{server.url}/{n}" for n in names]) == remote
    assert stats.stat([f"s3://{n}" for n in names]) == remote
    assert stats.stat([f"gs://{n}" for n in names]) == remote
  local = stats.stat([str(p) for p in paths])
  assert local == [Stat(3, ""), Stat(0, ""), Stat(7, "")]


@pytest.mark.parametrize(
    "etag, bare",
    [('"a-1"', "a-1"), ('W/"a"', "a"), ("a", "a"), (None, ""), ("", "")],
)
def test_an_etag_is_the_same_however_it_is_quoted(etag, bare):
  assert stats.bare(etag) == bare


def test_many_files_of_a_bucket_cost_one_request(folder, monkeypatch):
  with servers.buckets(folder, monkeypatch) as server:
    found = stats.stat([f"s3://bucket/x/{i}.tar" for i in range(20)])
    assert [s.size for s in found] == list(range(20))
    assert server.counts == {"LIST": 1}


def test_a_missing_file_is_named_among_many(folder, monkeypatch):
  with servers.buckets(folder, monkeypatch):
    with pytest.raises(UserError, match="s3://bucket/x/20.tar does not exist"):
      stats.stat([f"s3://bucket/x/{i}.tar" for i in range(21)])


def test_a_bucket_that_may_not_be_listed_is_asked_for_each_file(
    folder, monkeypatch
):
  def refuse(url):
    raise UserError("forbidden")

  monkeypatch.setattr(stats.expanding, "listing", refuse)
  with servers.buckets(folder, monkeypatch) as server:
    found = stats.stat([f"s3://bucket/x/{i}.tar" for i in range(20)])
    assert [s.size for s in found] == list(range(20))
    assert server.counts == {"HEAD": 20}


@pytest.mark.parametrize(
    "name, reason",
    [
        ("missing.tar", "No such file"),
        ("bucket", "it is a folder"),
        ("SERVER/missing.tar", "the server answers 404"),
        ("SERVER/forbidden.tar", "403 Forbidden"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(folder, name, reason):
  with servers.RangeServer(folder) as server:
    remote = name.startswith("SERVER")
    path = name.replace("SERVER", server.url) if remote else f"{folder}/{name}"
    with pytest.raises(UserError, match=reason) as error:
      stats.stat([path], servers.QUICK)
  assert path in str(error.value)


def test_a_server_that_is_not_there_is_an_error():
  with pytest.raises(TryAgain, match="no connection to the server"):
    stats.stat(["http://127.0.0.1:9/a.tar"], servers.QUICK)
