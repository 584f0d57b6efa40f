"""The table of a shard: small in a file, the same after it, never trusted."""

import zlib

import hand_tars
import numpy as np
import pytest

from siglip_jax.data.tars import samples as samples_lib
from siglip_jax.data.tars import scan
from siglip_jax.data.tars import table as table_lib
from siglip_jax.errors import UserError

FIELDS = ("layout", "start", "sizes", "validation")


def made(data: bytes) -> table_lib.Table:
  notes = scan.Notes()
  walk = scan.walk(data, len(data), notes)
  return samples_lib.group(walk, notes, ("jpg",)).table


def random_table(n: int, seed: int = 0) -> table_lib.Table:
  """Samples as img2dataset's, without a tar around them."""
  rng = np.random.default_rng(seed)
  sizes = np.stack(
      [rng.integers(*r, n) for r in ((2e4, 8e4), (300, 600), (20, 99))], axis=1
  )
  ends = np.cumsum((-(-sizes // 512) + 1).sum(axis=1))
  return table_lib.Table(
      layouts=[("jpg", "json", "txt")],
      layout=np.zeros(n, np.uint8),
      start=np.concatenate([[0], ends[:-1]]).astype(np.uint32),
      sizes=sizes.astype(np.uint32),
      extra=None,
      validation=rng.random(n) < 0.05,
  )


def same(a: table_lib.Table, b: table_lib.Table) -> bool:
  extra = (a.extra is None) == (b.extra is None)
  if a.extra is not None and b.extra is not None:
    extra = np.array_equal(a.extra, b.extra)
  return (
      a.layouts == b.layouts
      and extra
      and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
  )


TARS = {
    "ordinary": hand_tars.tar(*range(20)),
    "empty": hand_tars.END,
    "one": hand_tars.tar(3),
    "by type": b"".join(
        hand_tars.member(f"{k}.{s}", k.encode() * n)
        for s, n in (("jpg", 900), ("txt", 3))
        for k in "abc"
    ),
    "irregular": hand_tars.sample("a", json=None)
    + hand_tars.member("README", b"x" * 3000)
    + hand_tars.gnu_long("d" * 150 + "/a.jpg")
    + hand_tars.member("x")
    + hand_tars.sample("b", txt=b""),
}


@pytest.mark.parametrize("kind", TARS)
def test_a_table_is_the_same_after_its_file(kind):
  table = made(TARS[kind])
  content = table_lib.encode(table, {"shard": "a.tar"}, [b"column"])
  again, header, blobs = table_lib.decode(content, "a.idx")
  assert same(table, again) and blobs == [b"column"]
  assert header["shard"] == "a.tar"


def test_a_table_takes_few_bytes():
  table = random_table(10_000)
  content = table_lib.encode(table, {})
  assert len(content) / len(table) < 6
  assert table.nbytes / len(table) <= 18
  assert same(table, table_lib.decode(content, "a")[0])


def test_some_samples_of_a_table_keep_their_places():
  table = made(TARS["irregular"])
  rows = np.array([2, 0])
  part = table.take(rows)
  assert [part.parts(i) for i in range(2)] == [table.parts(2), table.parts(0)]
  assert part.offsets(slice(None)).tolist() == table.offsets(rows).tolist()
  assert table.extra is not None and table.take(rows[1:]).extra is None


def test_samples_of_some_layouts_are_found():
  table = made(TARS["irregular"])
  assert set(table.layouts) == {("jpg", "txt"), ("jpg",), ("jpg", "json")}
  assert table.of_layouts({("jpg", "txt")}).tolist() == [True, False, False]
  assert not made(TARS["empty"]).of_layouts({("jpg",)}).size


def damaged():
  content = table_lib.encode(random_table(50), {"a": 1})
  line = content.index(b"\n", 25)
  yield "another file", b"{}"
  yield "empty", b""
  yield "cut off", content[:-10]
  yield "longer", content + b"x"
  yield "another number", content.replace(b'"samples":50', b'"samples":51')
  yield "minus", content.replace(b'"samples":50', b'"samples":-50')
  yield "no number", content.replace(b'"samples":50', b'"samples":"x"')
  yield "flipped", content[: line + 9] + b"??" + content[line + 11 :]


DAMAGED = dict(damaged())


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused(kind):
  with pytest.raises(UserError, match="x.idx must be a file that python -m"):
    table_lib.decode(DAMAGED[kind], "x.idx")


def test_a_blob_never_takes_more_memory_than_it_should():
  bomb = zlib.compress(bytes(1 << 26))
  with pytest.raises(ValueError, match="expected 10 bytes, got 11 or more"):
    table_lib.inflate(bomb, 10)


def test_the_digest_covers_places_alone():
  table = random_table(50)
  plain = table_lib.digest_of(table_lib.encode(table, {"etag": "a"}))
  other = table_lib.encode(table, {"etag": "b"}, [b"column"])
  assert table_lib.digest_of(other) == plain
  other = table_lib.encode(random_table(50, seed=1), {"etag": "a"})
  assert table_lib.digest_of(other) != plain
