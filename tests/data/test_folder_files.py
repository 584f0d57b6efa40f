"""Folders of images with texts beside them, and what else a folder may hold."""

import subprocess

import fakes
import pytest

from siglip_jax.data import folder_files
from siglip_jax.data import folders
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
        (["shards/000.tar", "x.csv"], "It holds shards/000.tar: unpack"),
        (["a.png", "metadata.jsonl"], "holds metadata.jsonl: `sed .*`"),
        (["a.png", "train.csv"], "holds train.csv: write .* captions.jsonl"),
        (["data/train.parquet"], "holds data/train.parquet: write"),
        (["cat/a.png", "dog/b.png", "dog/c.png"], r"by name \(cat, dog\)"),
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


def test_the_hint_for_metadata_makes_captions(tmp_path):
  fill(tmp_path, "a.png")
  line = '{"file_name": "a.png", "text": "x"}\n'
  (tmp_path / "metadata.jsonl").write_text(line)
  command = folder_files.hint(tmp_path).split("`")[1]
  subprocess.run(command, shell=True, cwd=tmp_path, check=True)
  assert folders.folder_source(tmp_path)[0]["text"] == "x"


def test_links_to_folders_inside_add_nothing_and_those_outside_are_refused(
    tmp_path,
):
  folder = tmp_path / "folder"
  fill(folder, "real/a.png", "real/a.txt")
  (folder / "again").symlink_to("real")
  (folder / "circle").symlink_to(".")
  assert folder_files.images_with_txt(folder) == ["real/a.png"]
  (folder / "more").symlink_to(tmp_path)
  with pytest.raises(UserError, match="more is a link to a folder outside"):
    folder_files.images_with_txt(folder)


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
