"""captions.jsonl: read quickly, once, and never stale."""

import json
import os

import fakes
import pytest

from siglip_jax.data import captions
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


def write(folder, entries, age=10.0):
  """Writes captions.jsonl, as if it had been changed `age` seconds ago."""
  path = folder / captions.NAME
  lines = [json.dumps({"image": i, "text": t}) + "\n" for i, t in entries]
  path.write_text("".join(lines))
  seconds = path.stat().st_mtime - age
  os.utime(path, (seconds, seconds))
  return path


def image(folder, name="a.png"):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(PIXEL)


@pytest.fixture
def parsed(monkeypatch):
  """The chunks that were parsed."""
  captions._parsed.cache_clear()
  parsed, parse = [], captions._entries
  monkeypatch.setattr(
      captions,
      "_entries",
      lambda path, chunk: parsed.append(chunk) or parse(path, chunk),
  )
  return parsed


def test_lines_cost_no_look_at_the_disk_of_their_own(tmp_path, monkeypatch):
  names = [f"{d}/{i}.png" for d in "abc" for i in range(40)]
  for name in names:
    image(tmp_path, name)
  path = write(tmp_path, [(name, "x") for name in names * 10])
  looks = []
  for function in ("stat", "lstat", "readlink"):
    real = getattr(os, function)
    monkeypatch.setattr(
        os,
        function,
        lambda *a, real=real, **k: looks.append(a) or real(*a, **k),
    )
  assert len(captions.read(path).entries) == 1200
  assert len(looks) < 60  # a few for each directory


def test_a_file_is_parsed_once_for_all_its_splits(tmp_path, parsed):
  image(tmp_path)
  path = write(tmp_path, [("a.png", str(i)) for i in range(50)])
  assert captions.read(path).part("all") == captions.read(path).part("all")
  assert len(parsed) == 1


def test_a_file_that_changes_is_parsed_again(tmp_path, parsed):
  image(tmp_path)
  for text in ("one", "two"):  # of the same length and age
    path = write(tmp_path, [("a.png", text)])
    assert captions.read(path).entries == (("a.png", text),)
  # A file that was changed just now may change within its time's resolution.
  path = write(tmp_path, [("a.png", "new")], age=0)
  captions.read(path)
  captions.read(path)
  assert len(parsed) == 4


def test_an_image_that_is_gone_is_told_though_the_file_is_known(tmp_path):
  image(tmp_path)
  path = write(tmp_path, [("a.png", "x")])
  captions.read(path)
  (tmp_path / "a.png").unlink()
  with pytest.raises(UserError, match="line 1: there is no image 'a.png'"):
    captions.read(path)


def test_missing_images_are_named_by_the_first_line_and_counted(tmp_path):
  image(tmp_path)
  (tmp_path / "folder.png").mkdir()
  path = write(
      tmp_path,
      [("a.png", "x"), ("b.png", "x"), ("no/c.png", ""), ("folder.png", "x")],
  )
  path.write_text("\n" + path.read_text())
  with pytest.raises(
      UserError, match="line 3: there is no image 'b.png'. In all, 3 images"
  ):
    captions.read(path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "x" * 5000, "x/" * 3000 + "a.png", "loop", "loop/a.png"],
)
def test_paths_that_name_nothing_are_missing(tmp_path, name):
  (tmp_path / "loop").symlink_to("loop")
  path = write(tmp_path, [(name, "x")])
  with pytest.raises(UserError, match="line 1: there is no image"):
    captions.read(path)


def test_links_are_followed_and_paths_stay_in_the_folder(tmp_path):
  folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
  image(folder, "real/a.png")
  image(elsewhere)
  (folder / "file.png").symlink_to("real/a.png")
  (folder / "linked").symlink_to("real")
  good = [("file.png", "x"), ("linked/a.png", "y"), ("./real/../file.png", "")]
  (folder / "out").symlink_to(elsewhere)
  (folder / "out.png").symlink_to(elsewhere / "a.png")
  good += [("out/a.png", "x"), ("out.png", "y")]
  assert captions.read(write(folder, good)).entries == tuple(good)
  for name in ("out/../elsewhere/a.png", "../elsewhere/a.png", "/a.png"):
    with pytest.raises(UserError, match=f"line 2: '{name}' is outside"):
      captions.read(write(folder, [good[0], (name, "z")]))


@pytest.mark.parametrize(
    "spoil, match",
    [
        (lambda path: path.mkdir(), "must be a file; it is not"),
        (os.mkfifo, "must be a file; it is not"),
        (lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many"),
    ],
)
def test_captions_that_are_not_a_file_are_refused(tmp_path, spoil, match):
  path = tmp_path / captions.NAME
  spoil(path)
  with pytest.raises(UserError, match=f"{path} {match}"):
    captions.read(path)


def test_lines_may_end_in_any_way_and_hold_any_character(tmp_path):
  image(tmp_path)
  path = tmp_path / captions.NAME
  texts = ["a\u2028b", "\x0b", "é", "\U0001f600"]
  lines = [
      json.dumps({"image": "a.png", "text": t}, ensure_ascii=bool(i % 2))
      for i, t in enumerate(texts)
  ]
  ends = ("\n", "\r\n", "\r", "")
  content = "".join(a + b for a, b in zip(lines, ends, strict=True))
  path.write_bytes(content.encode())
  assert [t for _, t in captions.read(path).entries] == texts


def test_chunks_do_not_change_what_is_read(tmp_path, monkeypatch):
  image(tmp_path)
  path = write(tmp_path, [("a.png", "x" * i) for i in range(30)], age=0)
  whole = captions.read(path).entries
  monkeypatch.setattr(captions, "_CHUNK", 100)
  assert captions.read(path).entries == whole
  with path.open("a") as file:
    file.write("\n[]\n")
  with pytest.raises(UserError, match="line 32 must be"):
    captions.read(path)
