"""The source of tars: every sample by its index, as the tar has it."""

import dataclasses
import pickle
import threading

import hand_tars
from hand_tars import END
from hand_tars import member
import numpy as np
import pytest

from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.tars import build
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars.opening import tar_source
from siglip_jax.errors import UserError


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
  """Three shards of samples, one of them without a text."""
  folder = tmp_path_factory.mktemp("tars")
  data = [hand_tars.tar(*range(20)), hand_tars.tar(*range(20, 25))]
  data.append(hand_tars.sample("bare", txt=None) + hand_tars.tar(30))
  for i, content in enumerate(data):
    (folder / f"{i}.tar").write_bytes(content)
  options = build.Options(columns=("width", "key", "lang"))
  with pytest.raises(UserError, match="no sample has 'lang'"):
    build.build(
        str(folder / "*.tar"), str(folder / "index"), options, workers=1
    )
  options = build.Options(columns=("width", "key"))
  build.build(str(folder / "*.tar"), str(folder / "index"), options, workers=1)
  return str(folder / "*.tar")


def write(tmp_path, *contents: bytes) -> str:
  for i, content in enumerate(contents):
    (tmp_path / f"{i}.tar").write_bytes(content)
  return str(tmp_path / "*.tar")


def test_each_sample_is_what_the_tar_has(tars):
  source = tar_source(tars)
  assert isinstance(source, sources.Source) and len(source) == 26
  numbers = [*range(25), 30]
  for index, number in enumerate(numbers):
    key = f"{number:09d}"
    image = b"image of " + key.encode() * 20
    text = f"text {number}"
    assert source[index] == {"image": image, "txt": text, "text": text}
    assert source.key(index).endswith(f".tar: {key}")
  assert source.values("text") == [f"text {n}" for n in numbers]
  assert source.values("image") is None and source.values("caption") is None


def test_a_long_key_is_read_from_its_extended_header(tmp_path):
  names = ("d" * 150 + "/a", "e" * 150 + "/b")
  data = b""
  for long in (
      lambda name: hand_tars.gnu_long(name),
      lambda name: hand_tars.pax({"path": name}),
  ):
    name = names[bool(data)]
    for suffix in ("jpg", "txt"):
      data += long(f"{name}.{suffix}") + member("short", b"x")
  source = tar_source(write(tmp_path, data + END))
  keys = [source.key(i).rpartition(": ")[2] for i in range(2)]
  assert keys == list(names)


@pytest.mark.parametrize("index", [-1, 26])
def test_other_indices_are_an_error(tars, index):
  with pytest.raises(IndexError, match="of 26 samples"):
    tar_source(tars)[index]


def test_several_texts_are_read_and_drawn(tars):
  weights = {"txt": 1.0, "json:caption": 3.0}
  source = tar_source(tars, texts=weights)
  assert len(source) == 27  # the one without .txt has a caption
  record = source[3]
  assert record["text"] == ["text 3", "caption 3"]
  assert record["json:caption"] == "caption 3"
  rng = np.random.default_rng(0)
  drawn = [source.draw(record, rng)["text"] for _ in range(400)]
  assert 270 < drawn.count("caption 3") < 330
  assert source.values("text")[25] == ["caption 0"]
  assert source.values("json:caption")[3] == "caption 3"


def test_five_captions_may_be_lines_of_one_text(tmp_path):
  lines = b"one\ntwo\nthree\nfour\nfive\n"
  pattern = write(tmp_path, member("a.png") + member("a.txt", lines) + END)
  source = tar_source(pattern, text="txt:lines")
  assert source[0]["text"] == ["one", "two", "three", "four", "five"]


def test_labels_need_no_text(tmp_path):
  data = member("a.webp") + member("a.cls", b"3") + member("b.webp")
  source = tar_source(write(tmp_path, data + END))
  assert source[0] == {"image": b"x", "label": 3}
  assert len(source) == 1 and source.values("label") == [3]
  assert source.values("text") is None
  rng = np.random.default_rng(0)
  assert source.draw(source[0], rng) == source[0]


def test_the_image_is_the_first_of_the_suffixes(tmp_path):
  data = member("a.png", b"P") + member("a.jpg", b"J") + member("a.txt") + END
  pattern = write(tmp_path, data)
  assert tar_source(pattern)[0]["image"] == b"J"
  assert tar_source(pattern, image="png;jpg")[0]["image"] == b"P"


def test_parts_that_lie_apart_are_read_apart(tmp_path):
  data = member("a.jpg", b"J") + member("z.npy", bytes(300_000))
  pattern = write(tmp_path, data + member("a.txt", b"T") + END)
  source = tar_source(pattern)
  read = source._ranges.read
  sizes = []
  source._ranges.read = lambda i, at, n: sizes.append(n) or read(i, at, n)
  assert source[0] == {"image": b"J", "txt": "T", "text": "T"}
  assert sizes == [1, 1]


def test_a_member_that_cannot_be_read_is_an_image_error(tmp_path):
  data = member("a.jpg") + member("a.txt", b"\xff") + hand_tars.tar(1)
  source = tar_source(write(tmp_path, data))
  with pytest.raises(ImageError, match="its .txt is not UTF-8"):
    _ = source[0]
  with pytest.raises(UserError, match="0.tar: a cannot be read: its .txt is"):
    source.values("text")
  assert source[1]["text"] == "text 1"


@pytest.mark.parametrize(
    "path, error", [("", ImageError), ("gs://b/", OSError)]
)
def test_a_disk_that_fails_spoils_a_record_and_a_network_the_run(
    tars, path, error
):
  source = tar_source(tars)
  _ = source[0]

  def fails(*_):
    raise OSError(5, "Input/output error")

  source._ranges.read = fails
  paths = [path + p for p in source._shards.paths]
  source._shards = dataclasses.replace(source._shards, paths=paths)
  with pytest.raises(error, match="Input/output error"):
    _ = source[1]


def test_splits_are_disjoint_and_whole(tmp_path):
  pattern = write(tmp_path, hand_tars.tar(*range(200)), hand_tars.tar(300))
  keys = {}
  for split in ("train", "validation", "all"):
    source = tar_source(pattern, split=split)
    keys[split] = {source.key(i) for i in range(len(source))}
    assert len(keys[split]) == len(source)
  assert keys["train"] | keys["validation"] == keys["all"]
  assert not keys["train"] & keys["validation"]
  assert 3 <= len(keys["validation"]) <= 20


def test_selected_samples_are_dense(tars):
  whole = tar_source(tars)
  keep = np.random.default_rng(0).random(26) < 0.5
  source = tar_source(tars, select=keep)
  rows = np.flatnonzero(keep).tolist()
  assert len(source) == len(rows)
  assert [source[i] for i in range(len(rows))] == [whole[r] for r in rows]
  np.testing.assert_array_equal(
      source.columns("width"), whole.columns("width")[keep]
  )
  assert source.digest() != whole.digest()
  assert source.block_starts[-1] == len(rows)


def test_columns_are_those_of_the_samples(tars):
  source = tar_source(tars)
  assert source.columns("width").tolist() == [256 + n for n in [*range(25), 30]]
  assert source.columns("key")[21] == "000000021"
  with pytest.raises(UserError, match="it has no 'height'. Its columns: wid"):
    source.columns("height")


def test_columns_of_two_kinds_are_refused(tmp_path):
  a = member("a.jpg") + member("a.txt") + member("a.json", b'{"x": "t"}')
  b = member("a.jpg") + member("a.txt") + member("a.json", b'{"x": 1}')
  c = member("a.jpg") + member("a.txt") + END
  options = build.Options(columns=("x",))
  pattern = write(tmp_path, a, b, c)
  build.build(pattern, str(tmp_path / "index"), options, workers=1)
  with pytest.raises(UserError, match="'x' is numbers in some shards"):
    tar_source(pattern).columns("x")
  both = [str(tmp_path / "0.tar"), str(tmp_path / "2.tar")]
  assert tar_source(both).columns("x").tolist() == ["t", None]
  both = [str(tmp_path / "1.tar"), str(tmp_path / "2.tar")]
  np.testing.assert_array_equal(tar_source(both).columns("x"), [1, np.nan])


def test_a_digest_covers_shards_texts_and_split(tars, tmp_path):
  plain = tar_source(tars).digest()
  assert len(plain) == 12 and tar_source(tars).digest() == plain
  one = tar_source(tars.replace("*", "0")).digest()
  others = {
      tar_source(tars, text="json:caption").digest(),
      tar_source(tars, split="train").digest(),
      one,
  }
  assert len(others | {plain}) == 4
  # The same shard elsewhere, with an index of its own.
  data = hand_tars.tar(*range(20))
  assert tar_source(write(tmp_path, data)).digest() == one
  assert tar_source(write(tmp_path, hand_tars.tar(1))).digest() != one


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_pickle_is_small_and_the_same(tars, tmp_path, in_memory):
  if in_memory:
    tars = write(tmp_path, hand_tars.tar(*range(50)))
  source = tar_source(tars, texts={"txt": 1, "json:caption": 2}, block_mb=1)
  _ = source[0]
  content = pickle.dumps(source)
  assert len(content) < 4000
  again = pickle.loads(content)
  assert [again[i] for i in range(5)] == [source[i] for i in range(5)]
  assert again.digest() == source.digest()
  np.testing.assert_array_equal(again.block_starts, source.block_starts)


def test_threads_share_a_source(tars, monkeypatch):
  monkeypatch.setattr("siglip_jax.data.tars.source._TABLES", 1)
  source = tar_source(tars)
  expected = [source[i] for i in range(26)]
  wrong = []

  def read(seed: int) -> None:
    for index in np.random.default_rng(seed).permutation(26).tolist() * 3:
      if source[index] != expected[index]:
        wrong.append(index)

  threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_blocks_are_dealt_evenly_within_shards(tmp_path):
  names = [hand_tars.sample(f"{i:03}", jpg=bytes(100_000)) for i in range(50)]
  pattern = write(tmp_path, b"".join(names) + END, hand_tars.tar(1, 2) + END)
  source = tar_source(pattern, block_mb=1)
  starts = source.block_starts
  assert starts.dtype == np.int64
  assert starts.tolist() == [0, 10, 20, 30, 40, 50, 52]
  few = np.zeros(52, bool)
  few[[3, 8, 50]] = True
  assert tar_source(pattern, select=few).block_starts.tolist() == [0, 2, 3]


def test_a_shard_without_samples_of_the_split_has_no_block(tmp_path):
  pattern = write(tmp_path, hand_tars.tar(1), END, hand_tars.tar(2))
  assert tar_source(pattern).block_starts.tolist() == [0, 1, 2]


def test_a_local_source_is_not_read_by_blocks(tars):
  assert not hasattr(tar_source(tars), "write_block")


def test_tables_stay_in_memory_up_to_a_limit(tars):
  opened = index_lib.opened(tars)
  loaded = []
  table = opened.index.table(0)

  def load(shard: int):
    loaded.append(shard)
    return table

  tables = index_lib.Recent(load, 2 * table.nbytes)
  for shard in (0, 1, 0, 2, 0, 1):
    assert tables[shard] is table
  assert loaded == [0, 1, 2, 1]


def test_a_shard_that_is_gone_ends_the_run(tmp_path):
  source = tar_source(write(tmp_path, hand_tars.tar(1)))
  (tmp_path / "0.tar").unlink()
  with pytest.raises(UserError, match="0.tar"):
    _ = source[0]
  assert source.key(0).endswith("0.tar, byte 0")
