"""Remote tars: samples come from the blocks' files, or else by their ranges."""

import itertools
import pickle

import hand_tars
from hand_tars import END
from hand_tars import member
import numpy as np
import pytest
import servers

from siglip_jax.data import blocks
from siglip_jax.data.tars import build
from siglip_jax.data.tars.opening import tar_source
from siglip_jax.data.tars.remote_source import RemoteTarSource
from siglip_jax.errors import UserError


def far(source) -> RemoteTarSource:
  """The same source as if its tars were remote."""
  make, (shards,) = source.__reduce__()
  return RemoteTarSource(shards, **make.keywords)


def apart(key: str) -> bytes:
  """A sample with something large between its image and its text."""
  large = bytes(200_000)
  parts = (
      ("jpg", key.encode() * 50_000),
      ("npy", large),
      ("txt", b"t" + key.encode()),
  )
  return b"".join(member(f"{key}.{s}", content) for s, content in parts)


TARS = {
    "ordinary": hand_tars.tar(*range(50)),
    "by type": b"".join(
        member(f"{k}.{s}", (k + s).encode() * 99_000)
        for s in ("jpg", "txt")
        for k in "abcdef"
    ),
    "with large parts": b"".join(map(apart, "abcdefgh")) + END,
}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "blocks").mkdir()
  return blocks.Folder(str(tmp_path / "blocks"), patience=0.01)


@pytest.mark.parametrize("kind", TARS)
def test_records_of_blocks_are_those_of_the_tar(kind, tmp_path, folder):
  (tmp_path / "0.tar").write_bytes(TARS[kind])
  local = tar_source(str(tmp_path / "0.tar"), block_mb=1)
  source = far(local)
  source.use_blocks(folder)
  expected = [local[i] for i in range(len(local))]
  assert [source[i] for i in range(len(local))] == expected  # by range
  for block in range(len(source.block_starts) - 1):
    source.write_block(block, folder.whole(block))
  again = pickle.loads(pickle.dumps(source))
  (tmp_path / "0.tar").unlink()
  # Not even the tables of the shards are needed.
  again._tables = None
  for reader in (source, again):
    assert [reader[i] for i in range(len(local))] == expected


def test_a_block_holds_what_is_used(tmp_path):
  (tmp_path / "0.tar").write_bytes(TARS["with large parts"])
  source = far(tar_source(str(tmp_path / "0.tar"), block_mb=1))
  total = 0
  for block in range(len(source.block_starts) - 1):
    source.write_block(block, tmp_path / "block")
    size = (tmp_path / "block").stat().st_size
    assert source.block_bytes(block) >= size
    total += size
  used = 8 * (50_000 + 2)
  assert used <= total <= 1.05 * used
  assert len(source.block_starts) == 3


def test_a_block_that_is_deleted_is_read_by_range(tmp_path, folder):
  (tmp_path / "0.tar").write_bytes(TARS["ordinary"])
  source = far(tar_source(str(tmp_path / "0.tar")))
  source.use_blocks(folder)
  folder.wait = lambda block: tmp_path / "gone"
  assert source[7]["text"] == "text 7"  # before its table was read
  source.write_block(0, folder.whole(0))
  assert source._kept[0].nbytes
  assert source[8]["text"] == "text 8"  # and after


def test_parts_that_a_block_does_not_have_are_read_by_range(tmp_path, folder):
  (tmp_path / "0.tar").write_bytes(TARS["with large parts"])
  source = far(tar_source(str(tmp_path / "0.tar")))
  source.use_blocks(folder)
  source.write_block(0, folder.whole(0))
  assert source.values("txt") == [f"t{k}" for k in "abcdefgh"]
  assert source.values("npy") == ["\0" * 200_000] * 8


def test_a_substitute_is_of_the_same_block(tmp_path):
  (tmp_path / "0.tar").write_bytes(TARS["by type"])
  source = far(tar_source(str(tmp_path / "0.tar"), block_mb=1))
  starts = source.block_starts.tolist()
  assert len(starts) > 2
  rng = np.random.default_rng(0)
  for first, last in itertools.pairwise(starts):
    drawn = {source.substitute(first, rng) for _ in range(60)}
    assert drawn == set(range(first, last))


def test_tars_of_a_server_are_indexed_and_read(tmp_path):
  served = tmp_path / "served"
  served.mkdir()
  for i in range(2):
    tar = hand_tars.tar(*range(30 * i, 30 * i + 30))
    (served / f"{i}.tar").write_bytes(tar)
  index = str(tmp_path / "index")
  with servers.RangeServer(served) as server:
    tars = f"{server.url}/{{0..1}}.tar"
    build.build(tars, index, build.Options(), workers=1)
    source = tar_source(tars, index=index)
    assert isinstance(source, RemoteTarSource) and len(source) == 60
    assert [source[i]["text"] for i in (0, 31)] == ["text 0", "text 31"]
    assert source.key(31) == f"{server.url}/1.tar: 000000031"
    source.write_block(1, tmp_path / "block")
    assert (tmp_path / "block").stat().st_size < (
        served / "1.tar"
    ).stat().st_size
    # Local copies have the same index and digest.
    local = tar_source(str(served / "*.tar"), index=index)
    assert local.digest() == source.digest()
    # The same size, but another file.
    data = (served / "1.tar").read_bytes()
    (served / "1.tar").write_bytes(data[:600] + b"?" + data[601:])
    with pytest.raises(UserError, match="etag"):
      tar_source(tars, index=index)
    with pytest.raises(UserError, match="etag"):
      _ = source[40]


def test_remote_tars_need_an_index(tmp_path):
  with servers.RangeServer(tmp_path) as server:
    (tmp_path / "0.tar").write_bytes(hand_tars.tar(1))
    with pytest.raises(
        UserError, match="Remote tars need an index; .*--out=DIR"
    ):
      tar_source(f"{server.url}/0.tar")
