"""The window on a remote tar shows the same bytes as the whole file."""

from concurrent import futures
import random

import hand_tars
import pytest

from siglip_jax.data.tars import scan
from siglip_jax.data.tars import window
from siglip_jax.errors import UserError


@pytest.fixture
def pool():
  with futures.ThreadPoolExecutor(1) as pool:
    yield pool


class File:
  """A remote file that counts what was read."""

  def __init__(self, data: bytes):
    self.data, self.reads = data, []

  def read(self, offset: int, size: int) -> bytes:
    self.reads.append((offset, size))
    return self.data[offset : offset + size]


@pytest.mark.parametrize("chunk", [512, 700, 1024, 1 << 20])
def test_a_walk_through_a_window_is_the_same(chunk, pool):
  rng = random.Random(0)
  damaged = bytearray(hand_tars.tar(*range(9)))
  damaged[2 * 512 : 3 * 512] = rng.randbytes(512)
  data = bytes(damaged) + hand_tars.tar(5) + rng.randbytes(3000)
  file = File(data)
  seen = window.Window(file.read, len(data), pool, chunk)
  notes, expected = scan.Notes(), scan.Notes()
  found = list(scan.walk(seen, len(data), notes))
  assert found == list(scan.walk(data, len(data), expected))
  assert notes == expected and notes.damages


def test_a_walk_reads_each_byte_about_once(pool):
  data = hand_tars.tar(*range(200))
  file = File(data)
  seen = window.Window(file.read, len(data), pool, 16 << 10)
  assert len(list(scan.walk(seen, len(data), scan.Notes()))) == 600
  assert sum(size for _, size in file.reads) <= 1.1 * len(data)


def test_a_large_member_is_not_read(pool):
  data = hand_tars.member("a.npy", bytes(1 << 20)) + hand_tars.tar(0)
  file = File(data)
  seen = window.Window(file.read, len(data), pool, 4096)
  assert len(list(scan.walk(seen, len(data), scan.Notes()))) == 4
  assert sum(size for _, size in file.reads) < 40_000


def test_random_parts_are_the_files_own(pool):
  rng = random.Random(0)
  data = rng.randbytes(5000)
  seen = window.Window(File(data).read, len(data), pool, 700)
  for _ in range(300):
    start = rng.randrange(5000)
    stop = start + rng.randrange(1, 1500)
    assert seen[start:stop] == data[start:stop]
    assert seen.find(data[start : start + 8], 0) == data.find(
        data[start : start + 8]
    )
  assert seen.find(b"not there", 0) == -1


def test_a_local_shard_is_mapped(tmp_path):
  path = tmp_path / "a.tar"
  for data in (b"", hand_tars.tar(1)):
    path.write_bytes(data)
    with window.opened(str(path), len(data)) as opened:
      assert opened[0 : len(data)] == data


def test_a_local_shard_that_cannot_be_read_is_named(tmp_path):
  path = tmp_path / "a.tar"
  with pytest.raises(UserError, match="a.tar cannot be read: No such file"):
    with window.opened(str(path), 512):
      pass
  path.write_bytes(bytes(100))
  with pytest.raises(UserError, match="a.tar must not change while it is"):
    with window.opened(str(path), 512):
      pass
