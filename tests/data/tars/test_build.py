"""The making of an index: one pass, that goes on where it was interrupted."""

import dataclasses
import io
import os

import hand_tars
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
import pytest

from siglip_jax.data.tars import build
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars import table
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

OPTIONS = build.Options()


@pytest.fixture
def tars(tmp_path):
  """Four shards of ten samples, and a place for their index."""
  for i in range(4):
    data = hand_tars.tar(*range(10 * i, 10 * i + 10))
    (tmp_path / f"{i}.tar").write_bytes(data)
  return tmp_path


@pytest.fixture
def indexed(monkeypatch):
  """Names of the shards that were read, in order."""
  names, index_shard = [], build.index_shard

  def counted(shard, options):
    names.append(shard.name)
    return index_shard(shard, options)

  monkeypatch.setattr(build, "index_shard", counted)
  return names


def made(tars, options=OPTIONS, **more):
  pattern = str(tars / "{0..3}.tar")
  return build.build(pattern, str(tars / "out"), options, workers=1, **more)


def test_an_index_says_what_the_shards_hold(tars):
  manifest = made(tars)
  assert list(manifest.names) == [f"{i}.tar" for i in range(4)]
  assert manifest.samples.tolist() == [10] * 4
  assert manifest.of_layout() == {("jpg", "json", "txt"): 40}
  assert manifest.suffixes == {"jpg": 40, "json": 40, "txt": 40}
  assert not manifest.problems and not manifest.counts
  assert manifest_lib.encode(manifest) == manifest_lib.encode(
      manifest_lib.read(str(tars / "out"))
  )


def test_an_interrupted_index_goes_on(tars, indexed, monkeypatch):
  with monkeypatch.context() as patch:
    index_shard = build.index_shard

    def interrupted(shard, options):
      if shard.name == "2.tar":
        raise KeyboardInterrupt
      return index_shard(shard, options)

    patch.setattr(build, "index_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
      made(tars)
  assert indexed == ["0.tar", "1.tar"]
  assert manifest_lib.read(str(tars / "out")) is None
  assert made(tars).samples.sum() == 40
  assert indexed == ["0.tar", "1.tar", "2.tar", "3.tar"]
  made(tars)
  assert len(indexed) == 4


def test_what_changed_is_read_again(tars, indexed):
  first = made(tars)
  (tars / "1.tar").write_bytes(hand_tars.tar(1, 2))
  os.utime(tars / "2.tar", ns=(1, 1))
  file = tars / "out" / "3.tar.idx"
  file.write_bytes(file.read_bytes()[:-1])
  del indexed[:]
  second = made(tars)
  assert indexed == ["1.tar", "2.tar", "3.tar"]
  assert second.samples.tolist() == [10, 2, 10, 10]
  changed = [a != b for a, b in zip(first.digests, second.digests, strict=True)]
  assert changed == [False, True, False, False]


def test_other_options_read_everything_again(tars, indexed):
  made(tars)
  manifest = made(tars, build.Options(columns=("width",)))
  assert len(indexed) == 8 and manifest.columns == {"width": 40}
  first = made(tars, build.Options(image=("jpg",)))
  assert len(indexed) == 12 and not first.columns


def test_columns_do_not_change_the_digests(tars):
  plain = made(tars).digests
  assert made(tars, build.Options(columns=("width",))).digests == plain


def test_several_processes_make_the_same_index(tars):
  expected = manifest_lib.encode(made(tars))
  again = build.build(
      str(tars / "*.tar"), str(tars / "other"), OPTIONS, workers=2
  )
  assert manifest_lib.encode(again) == expected


def test_names_are_relative_to_the_folder_of_all(tmp_path):
  for name in ("train/0.tar", "val/0.tar"):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(hand_tars.tar(len(name)))
  manifest = build.build(
      [str(tmp_path / "train/0.tar"), str(tmp_path / "val/0.tar")],
      str(tmp_path / "out"),
      OPTIONS,
      workers=1,
  )
  assert list(manifest.names) == ["train/0.tar", "val/0.tar"]
  files = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert files == ["manifest.json", "train%2F0.tar.idx", "val%2F0.tar.idx"]


def test_damage_and_what_is_left_out_are_in_the_manifest(tars):
  (tars / "1.tar").write_bytes(b"\x1f\x8b" + bytes(600))
  (tars / "2.tar").write_bytes(hand_tars.tar(1, 2)[:-1534])
  (tars / "3.tar").write_bytes(b"")
  manifest = made(tars)
  assert manifest.samples.tolist() == [10, 0, 2, 0]
  assert manifest.problems == [
      ("1.tar", 0, "compressed by gzip: decompress it"),
      ("2.tar", 5120, "a truncated member"),
      ("3.tar", 0, "an empty file"),
  ]
  assert manifest.counts == {"damage": 1}


def test_tars_without_images_are_an_error_that_says_what_they_hold(tmp_path):
  path = tmp_path / "a.tar"
  path.write_bytes(hand_tars.member("a.v2.gif") + hand_tars.member("a.txt"))
  expected = "end in jpg, png, webp, jpeg; got the suffixes v2.gif .1., txt .1."
  with pytest.raises(UserError, match=expected):
    build.build(str(path), str(tmp_path / "out"), OPTIONS, workers=1)
  path.write_bytes(b"BZh" + bytes(600))
  with pytest.raises(UserError, match="byte 0: compressed by bzip2"):
    build.build(str(path), str(tmp_path / "out"), OPTIONS, workers=1)


def test_a_column_that_no_sample_has_is_an_error(tars):
  with pytest.raises(UserError, match="no sample has 'aesthetic'. Fields: key"):
    made(tars, build.Options(columns=("width", "aesthetic")))


def test_columns_come_from_json_then_from_parquet(tars):

  rows = {"key": [f"{n:09d}" for n in range(10)], "width": [1.0] * 10}
  rows["similarity"] = [n / 8 for n in range(10)]
  parquet.write_table(pa.table(rows), tars / "0.parquet")
  manifest = made(tars, build.Options(columns=("width", "similarity", "key")))
  assert manifest.columns == {"width": 40, "similarity": 10, "key": 40}


def test_images_that_cannot_be_decoded_may_be_left_out(tmp_path):
  good = io.BytesIO()
  Image.new("RGB", (300, 200), "red").save(good, "jpeg")
  whole = good.getvalue()
  images = {"a": whole, "b": whole[:-300], "c": b"<html>", "d": whole}
  data = b"".join(hand_tars.sample(k, jpg=v) for k, v in images.items())
  (tmp_path / "a.tar").write_bytes(data)
  made = lambda **options: build.build(
      str(tmp_path / "a.tar"), str(tmp_path), build.Options(**options)
  )
  assert made().samples.tolist() == [4]
  manifest = made(decode=True)
  assert manifest.samples.tolist() == [2]
  assert manifest.counts == {"images that cannot be decoded": 2}
  index = index_lib.Index(str(tmp_path))
  sizes = index.table(0).sizes[:, 0].tolist()
  assert sizes == [len(whole)] * 2


def test_a_network_that_fails_means_the_same_command_again(tars, monkeypatch):
  def fails(shard, options):
    raise OSError("gone after 8 tries.")

  monkeypatch.setattr(build, "index_shard", fails)
  with pytest.raises(TryAgain, match="0.tar could not be indexed: gone after"):
    made(tars)


def test_a_folder_that_cannot_be_written_is_named(tars):
  (tars / "out").write_text("a file")
  with pytest.raises(UserError, match="out"):
    made(tars)


@pytest.mark.parametrize("text", ["", ";", " ; "])
def test_no_suffix_is_an_error(text):
  with pytest.raises(UserError, match="as 'jpg;png'"):
    build.suffixes(text)


def test_suffixes_are_in_their_order_without_dots():
  assert build.suffixes("JPG; .png;jpg") == ("jpg", "png")


def test_shards_in_memory_have_the_same_manifest(tars):
  shards = build.shards(str(tars / "*.tar"))
  manifest, contents = build.in_memory(shards, OPTIONS)
  assert manifest_lib.encode(manifest) == manifest_lib.encode(made(tars))
  path = tars / "out" / "2.tar.idx"
  assert contents["2.tar"] == path.read_bytes()
  assert len(table.decode(contents["2.tar"], "x")[0]) == 10
  assert dataclasses.astuple(shards[0])[1:3] == ("0.tar", shards[0].size)


@pytest.mark.parametrize("place", ["https://server/x", "hf://datasets/a/b/x"])
def test_a_place_that_nobody_can_write_to_is_refused_at_once(tars, place):
  with pytest.raises(UserError, match=f"machine, gs:// or s3://; got {place}"):
    build.build(str(tars / "0.tar"), place, OPTIONS)
