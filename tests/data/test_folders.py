"""Folders of captioned images: what is read, and what is refused."""

import json
import os

import fakes
import pytest

from siglip_jax.data import folders
from siglip_jax.data import pipeline
from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


def folder_of(path, captions, images=("a.png",)):
  path.mkdir(exist_ok=True)
  for name in images:
    (path / name).write_bytes(PIXEL)
  (path / "captions.jsonl").write_bytes(captions)
  return path


def test_images_are_found_in_subfolders_in_order(tmp_path):
  for name in ("b/2.JPG", "a.webp", "b/10.png"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PIXEL)
    path.with_suffix(".txt").write_text(f" {name}\n")
  (tmp_path / "notes.md").write_text("no image")
  (tmp_path / "folder.png").mkdir()
  source = folders.folder_source(tmp_path)
  texts = [source[i]["text"] for i in range(len(source))]
  assert texts == ["a.webp", "b/10.png", "b/2.JPG"]
  assert source.key(1) == str(tmp_path / "b/10.png")


def test_a_file_that_cannot_be_opened_is_no_image(tmp_path):
  fakes.captioned_folder(tmp_path, count=2)
  source = folders.folder_source(tmp_path)
  (tmp_path / "001.png").unlink()
  assert source[0]["text"] == "a red image number 0"
  with pytest.raises(ImageError, match="No such file"):
    source[1]
  pp = Preprocess("decode|resize(8)")
  batches = pipeline.train_iterator(
      source, pp, batch_size=2, seed=0, total_steps=1
  )
  assert sorted(next(batches)["replaced"]) == [-1, 1]


def test_byte_order_marks_are_no_part_of_captions(tmp_path):
  (tmp_path / "a.png").write_bytes(PIXEL)
  (tmp_path / "a.txt").write_text("red", encoding="utf-8-sig")
  assert folders.folder_source(tmp_path)[0]["text"] == "red"
  line = json.dumps({"image": "a.png", "text": "blue"})
  folder_of(tmp_path, line.encode("utf-8-sig"))
  assert folders.folder_source(tmp_path)[0]["text"] == "blue"


@pytest.mark.parametrize(
    "line, match",
    [
        (b'{"image": "a.png", "text": "x"', "line 3 must be"),
        (b'["a.png", "x"]', "line 3 must be"),
        (b'{"image": "a.png", "text": 3}', "line 3 must be"),
        (b'{"image": ["a.png"], "text": ["x"]}', "line 3 must be"),
        (b'{"image": "a\\u0000.png", "text": "x"}', "line 3 must be"),
        (b'{"image": "a.png", "text": "\\ud800"}', "line 3 must be"),
        (b"[" * 100_000, "line 3 must be"),
        (b'{"image": "b.png", "text": "x"}', "line 3: there is no image"),
        (b'{"image": "/etc/hosts", "text": "x"}', "line 3: .*outside"),
        (b'{"image": "x/../../g", "text": "x"}', "line 3: .*outside"),
    ],
)
def test_bad_lines_of_captions_are_named_by_number(tmp_path, line, match):
  good = b'{"image": "a.png", "text": "x"}\n\n'
  folder = folder_of(tmp_path / "f", good + line)
  with pytest.raises(UserError, match=match):
    folders.folder_source(folder)


def test_links_may_lead_to_images_elsewhere(tmp_path):
  (tmp_path / "disk").mkdir()
  (tmp_path / "disk/b.png").write_bytes(PIXEL)
  lines = b'{"image": "l/b.png", "text": "x"}\n{"image": "c.png", "text": "y"}'
  folder = folder_of(tmp_path / "f", lines)
  (folder / "l").symlink_to(tmp_path / "disk")
  (folder / "c.png").symlink_to(tmp_path / "disk/b.png")
  source = folders.folder_source(folder)
  assert [source[i]["image"] for i in range(2)] == [PIXEL] * 2


def test_file_names_that_are_not_utf8_are_read(tmp_path):
  for suffix, data in ((b".png", PIXEL), (b".txt", b"x")):
    with open(os.fsencode(tmp_path) + b"/caf\xe9" + suffix, "wb") as f:
      f.write(data)
  source = folders.folder_source(tmp_path)
  assert source[0] == {"image": PIXEL, "text": "x"}
  splits = []
  for split in ("train", "validation"):
    try:
      splits.append(len(folders.folder_source(tmp_path, split)))
    except UserError as e:
      assert "no image in the split" in str(e)
  assert splits == [1]


def test_an_image_keeps_its_split_when_others_come(tmp_path):
  lines = [
      json.dumps({"image": f"{i}.png", "text": "x"}).encode()
      for i in range(600)
  ]
  names = [f"{i}.png" for i in range(600)]
  some = folder_of(tmp_path, b"\n".join(lines[:300]), names)
  before = {p for p, _ in folders.folder_source(some, "validation").entries}
  more = folder_of(tmp_path, b"\n".join(lines[::-1]))
  after = {p for p, _ in folders.folder_source(more, "validation").entries}
  assert before == {p for p in after if int(p[:-4]) < 300}
  assert 15 <= len(after) <= 45  # 30 expected
  assert sorted(int(p[:-4]) for p in after)[:3] == [6, 33, 40]  # on any machine


def test_folders_have_three_splits(tmp_path):
  with pytest.raises(UserError, match="all, train or validation; got 'test'"):
    folders.folder_source(tmp_path, "test")


def test_txt_and_jsonl_hold_the_same(tmp_path):
  folder = fakes.captioned_folder(tmp_path, 5)
  source = folders.folder_source(folder)
  assert len(source) == 5 and source[1]["text"] == "a green image number 1"
  lines = [
      json.dumps({"image": f"{i:03d}.png", "text": source[i]["text"]})
      for i in range(5)
  ]
  (folder / "captions.jsonl").write_text("\n".join(lines))
  again = folders.folder_source(folder)
  assert [again[i] for i in range(5)] == [source[i] for i in range(5)]


def test_splits_are_disjoint_and_whole(tmp_path):
  folder = fakes.captioned_folder(tmp_path, 48)
  parts = {
      split: {source.key(i) for i in range(len(source))}
      for split in ("all", "train", "validation")
      for source in [folders.folder_source(folder, split)]
  }
  assert parts["train"] | parts["validation"] == parts["all"]
  assert not parts["train"] & parts["validation"]


def test_bad_folders_say_what_is_wrong(tmp_path):
  def error(match):
    with pytest.raises(UserError, match=match):
      folders.folder_source(tmp_path)

  error("is empty")
  (tmp_path / "a.png").write_bytes(PIXEL)
  error("expected a.txt beside it")
  (tmp_path / "a.txt").mkdir()
  error("expected a.txt beside it")
  (tmp_path / "a.txt").rmdir()
  (tmp_path / "a.txt").write_bytes(b"caf\xe9")
  error("UTF-8; .*a.txt is not, at byte 3")
  jsonl = tmp_path / "captions.jsonl"
  jsonl.write_bytes(b'{"image": "a.png", "text": "caf\xe9"}')
  error("line 1 is not, at byte")
  jsonl.write_text('{"image": "a.png"}')
  error("line 1 must be")
  with pytest.raises(UserError, match="no folder"):
    folders.folder_source(tmp_path / "none")


def test_texts_and_a_digest_open_no_file(tmp_path, monkeypatch):
  folder = fakes.captioned_folder(tmp_path, 48)
  source = folders.folder_source(folder, "train")
  expected = [source[i]["text"] for i in range(len(source))]

  def refuse(*args, **kwargs):
    raise AssertionError(f"opens {args}")

  for owner, name in ((folders.Path, "read_bytes"), (os, "stat")):
    monkeypatch.setattr(owner, name, refuse)
  monkeypatch.setattr("builtins.open", refuse)
  assert sources.values(source, "text") == expected
  assert len(sources.digest(source)) == 12


def test_a_digest_is_of_paths_and_texts_in_order(tmp_path):
  same, *others = (
      folders.FolderSource(tmp_path, entries).digest()
      for entries in (
          (("a", "xy"), ("b", "z")),
          (("a", "xy"), ("a", "z")),
          (("a", "xz"), ("b", "z")),
          (("ax", "y"), ("b", "z")),
          (("b", "z"), ("a", "xy")),
      )
  )
  entries = [("a", "xy"), ("b", "z")]
  assert folders.FolderSource(tmp_path / "copy", entries).digest() == same
  assert len({same, *others}) == 5


def test_lines_with_the_same_image_share_it(tmp_path):
  names = ("a.png", "./b.png", "s/../a.png", "b.png", "s//c.png", "s/c.png")
  (tmp_path / "s").mkdir()
  lines = [json.dumps({"image": n, "text": "x"}) for n in names]
  images = ("a.png", "b.png", "s/c.png")
  source = folders.folder_source(
      folder_of(tmp_path, "\n".join(lines).encode(), images)
  )
  ids = sources.image_ids(source)
  assert [ids.index(i) for i in ids] == [0, 1, 0, 1, 4, 4]


def test_many_texts_are_read_in_order(tmp_path, monkeypatch):
  monkeypatch.setattr(folders, "_CHUNK", 7)
  source = folders.folder_source(fakes.captioned_folder(tmp_path, 48))
  texts = [
      (tmp_path / p).with_suffix(".txt").read_text() for p, _ in source.entries
  ]
  assert sources.values(source, "text") == texts


@pytest.mark.parametrize(
    "path, match",
    [
        ("s3://bucket/images", "got s3://bucket/images. Mount the bucket"),
        ("", "no folder"),
        (__file__, "is a file: give the folder"),
        (f"{__file__}/a", "no folder"),
        ("{tmp}/0.tar", "is a file: give it as tars=.*/0.tar instead of as"),
        ("{tmp}/0.parquet", "give it as parquet="),
        ("{tmp}/a.csv", "give it as table="),
        ("~nobody-at-all/images", "no folder"),
        ("a\0b", "cannot be read: embedded null byte"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_paths_that_are_not_folders_say_what_to_give(path, match, tmp_path):
  for name in ("0.tar", "0.parquet", "a.csv"):
    (tmp_path / name).touch()
  path = path.replace("{tmp}", str(tmp_path))
  with pytest.raises(UserError, match=match):
    folders.folder_source(path)
