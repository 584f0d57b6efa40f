"""Folders of images with texts beside them, and what else a folder may hold."""

import os

import fakes
import pytest

from siglip_jax.data import folder_files
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


def fill(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PIXEL)


def test_images_are_in_the_order_of_their_paths_parts(tmp_path):
  names = ["a/z.png", "a-b/y.png", "a.png", "b.jpg"]
  fill(tmp_path, *names, *(n.rpartition(".")[0] + ".txt" for n in names))
  expected = ["a/z.png", "a-b/y.png", "a.png", "b.jpg"]
  assert folder_files.images_with_txt(tmp_path) == expected


def test_images_without_texts_are_counted(tmp_path):
  fill(tmp_path, "a.png", "a.txt", "b.png", "s/c.png")
  match = "b.png has no caption: expected b.txt beside it; 2 of 3 images"
  with pytest.raises(UserError, match=match):
    folder_files.images_with_txt(tmp_path)


@pytest.mark.parametrize(
    "names, match",
    [
        (
            ["shards/000.tar", "x.csv"],
            r"shards/000.tar: .*tars=.*shards/\*.tar",
        ),
        (
            ["a.png", "s/metadata.jsonl"],
            "holds s/metadata.jsonl: give .*/s as path",
        ),
        (["a.png", "train.csv"], "train.csv: give it as table=.*/train.csv"),
        (["data/train.parquet"], r"as parquet=.*/data/\*.parquet instead"),
        (["cat/a.png", "dog/b.png"], r"by name \(cat, dog\).* templates="),
        (["a.psd", "b.psd", "c"], "holds these files: 2 .psd, 1 without a"),
    ],
)
def test_other_layouts_are_named_with_what_to_do(tmp_path, names, match):
  fill(tmp_path, *names)
  hint = folder_files.hint(tmp_path)
  with pytest.raises(AssertionError, match=match):
    raise AssertionError(hint)
  assert hint.startswith(" ") and "\n" not in hint


def test_plain_folders_get_no_hint(tmp_path):
  fill(tmp_path, "a.png", "s/b.png", "s/b.txt", "captions.jsonl", "notes.md")
  assert folder_files.hint(tmp_path) == ""


def test_links_to_folders_elsewhere_are_followed_once(tmp_path):
  folder = tmp_path / "folder"
  fill(folder, "real/a.png", "real/a.txt")
  (folder / "again").symlink_to("real")
  (folder / "circle").symlink_to(".")
  assert folder_files.images_with_txt(folder) == ["real/a.png"]
  fill(tmp_path / "disk", "s/b.png", "s/b.txt")
  (tmp_path / "disk/s/circle").symlink_to(tmp_path / "disk")
  (folder / "more").symlink_to(tmp_path / "disk")
  (folder / "twice").symlink_to(tmp_path / "disk")
  images = ["more/s/b.png", "real/a.png"]
  assert folder_files.images_with_txt(folder) == images
  (tmp_path / "disk/up").symlink_to(tmp_path)
  with pytest.raises(UserError, match="more/up is a link to .* holds .*folder"):
    folder_files.images_with_txt(folder)


def test_a_suffix_says_little_of_an_image_with_a_caption(tmp_path):
  names = ["a.JPE", "b.jfif", "c", "d.v2", "e.json", "f.heic", "c.bak"]
  fill(tmp_path, *names, *(f"{n}.txt" for n in "abcdef"))
  (tmp_path / "f.heic").write_bytes(b"no image that is read")
  expected = ["a.JPE", "b.jfif", "c", "c.bak", "d.v2"]
  assert folder_files.images_with_txt(tmp_path) == expected
  assert folder_files.images(tmp_path) == expected
  (tmp_path / "c.txt").unlink()  # no caption: not an image by its suffix
  assert folder_files.images_with_txt(tmp_path) == ["a.JPE", "b.jfif", "d.v2"]
  assert folder_files.images(tmp_path) == expected


def test_files_that_cannot_be_opened_are_no_images(tmp_path):
  fill(tmp_path, "a.txt", "b.txt", "c.txt", "c")
  (tmp_path / "b").symlink_to("a.txt")
  os.mkfifo(tmp_path / "a")
  (tmp_path / "a.txt").write_text("x")
  assert folder_files.images_with_txt(tmp_path) == ["c"]


@pytest.mark.parametrize("name", ["b.png", "disk"])
def test_links_to_nothing_are_no_silent_loss(tmp_path, name):
  fill(tmp_path, "a.png", "a.txt")
  (tmp_path / "notes.md").symlink_to("gone")
  assert folder_files.images_with_txt(tmp_path) == ["a.png"]
  (tmp_path / name).symlink_to("gone")
  with pytest.raises(UserError, match=f"{name} is a link to nothing"):
    folder_files.images_with_txt(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
  fill(tmp_path, "a.png", "a.txt", "lost+found/x")
  scan = folder_files.os.scandir

  def refuse(path):
    if str(path).endswith(("lost+found", "secret")):
      raise PermissionError(13, "Permission denied")
    return scan(path)

  monkeypatch.setattr(folder_files.os, "scandir", refuse)
  assert folder_files.images_with_txt(tmp_path) == ["a.png"]
  fill(tmp_path, "secret/x")
  with pytest.raises(UserError, match="secret cannot be read: Permission"):
    folder_files.images_with_txt(tmp_path)
