"""Small files are read and written whole, wherever they lie."""

import pytest
import servers

from siglip_jax.data.remote import exists
from siglip_jax.data.remote import read_small
from siglip_jax.data.remote import write_small
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


@pytest.mark.parametrize("scheme", ["s3", "local"])
def test_what_is_written_is_read(tmp_path, scheme, monkeypatch):
  path = f"{tmp_path}/new/x.json" if scheme == "local" else "s3://b/new/x.json"
  with servers.buckets(tmp_path, monkeypatch):
    assert not exists(path)
    write_small(path, b"one")
    write_small(path, b"two")
    assert exists(path)
    assert read_small(path) == b"two"


def test_the_web_is_read_and_not_written(tmp_path):
  (tmp_path / "x").write_bytes(b"abc")
  with servers.RangeServer(
      tmp_path, faults=0.5, kinds=("503", "cut")
  ) as server:
    for _ in range(5):
      assert read_small(f"{server.url}/x", servers.QUICK) == b"abc"
    with pytest.raises(UserError, match="written to gs://, s3://"):
      write_small(f"{server.url}/x", b"")


@pytest.mark.parametrize("scheme", ["s3", "local"])
def test_a_missing_file_is_an_error(tmp_path, scheme, monkeypatch):
  path = f"{tmp_path}/b/x" if scheme == "local" else "s3://b/x"
  with servers.buckets(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"{path} .*(there is none|404)"):
      read_small(path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be reached"):
    write_small(f"{tmp_path}/file/x", b"")
  with pytest.raises(TryAgain, match="no connection"):
    exists("http://127.0.0.1:9/x", servers.QUICK)
