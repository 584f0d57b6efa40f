"""Folders of classes as a source."""

import pickle

import fakes
import numpy as np
import pytest

from siglip_jax.data.tables.classes import ClassSource
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)
PHOTO = ("a photo of a {}.",)


def fill(folder, *names, data=PIXEL):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return folder


def test_a_caption_is_the_class_in_a_template(tmp_path):
  names = ("snow_leopard/x.JPEG", "cat/b.jfif", "cat/s/c", "cat/notes.md")
  fill(tmp_path, *names)
  (tmp_path / "cat/notes.md").write_text("no image")
  source = pickle.loads(pickle.dumps(ClassSource(tmp_path, templates=PHOTO)))
  assert source.class_names == ["cat", "snow leopard"]
  assert [source[i]["label"] for i in range(len(source))] == [0, 0, 1]
  assert source[2] == {
      "image": PIXEL,
      "text": "a photo of a snow leopard.",
      "label": 1,
  }
  assert source.values("label") == [0, 0, 1]
  assert source.values("text")[0] == "a photo of a cat."
  assert source.key(1) == str(tmp_path / "cat/s/c")


def test_one_of_several_templates_is_drawn(tmp_path):
  fill(tmp_path, "cat/a.png")
  source = ClassSource(tmp_path, templates=("a {}", "the {}"))
  assert source[0]["text"] == ["a cat", "the cat"]
  rng = np.random.default_rng(0)
  draws = [source.draw(source[0], rng)["text"] for _ in range(100)]
  assert 30 < draws.count("a cat") < 70 and set(draws) == {"a cat", "the cat"}


def test_folders_may_be_links_to_other_disks(tmp_path):
  fill(tmp_path / "disk", "n01/a.png", "n02/b.png")
  root = tmp_path / "root"
  root.mkdir()
  for name in ("n01", "n02"):
    (root / name).symlink_to(tmp_path / "disk" / name)
  (tmp_path / "link").symlink_to(root)
  assert ClassSource(tmp_path / "link").values("text") == ["n01", "n02"]


@pytest.mark.parametrize(
    "lines, names, labels",
    [
        ("n02 great shark\nn01\ttench\nn03 no image\n", 3, [1, 0]),
        ("tench\n\ngreat shark\n", 2, [0, 1]),
    ],
)
def test_a_file_names_the_classes(tmp_path, lines, names, labels):
  fill(tmp_path / "f", "n01/a.png", "n02/b.png")
  (tmp_path / "classes.txt").write_text(lines)
  source = ClassSource(tmp_path / "f", class_file=tmp_path / "classes.txt")
  assert source.values("text") == ["tench", "great shark"]
  assert source.values("label") == labels and len(source.class_names) == names


def test_splits_are_whole(tmp_path):
  fill(tmp_path, *(f"c/{i}.png" for i in range(60)))
  parts = [
      {source.key(i) for i in range(len(source))}
      for split in ("all", "train", "validation")
      for source in [ClassSource(tmp_path, split=split)]
  ]
  assert parts[0] == parts[1] | parts[2] and not parts[1] & parts[2]
  sources = [ClassSource(tmp_path, split=s) for s in ("all", "train")]
  sources += [ClassSource(tmp_path, templates=PHOTO)]
  assert len({source.digest() for source in sources}) == 3


def test_what_is_not_such_a_folder_is_refused(tmp_path):
  folder = tmp_path / "f"
  folder.mkdir()

  def error(match, **options):
    with pytest.raises(UserError, match=match):
      ClassSource(folder, **options)

  error("folder of images for each class; it has no images")
  fill(folder, "cat/a.png")
  error("with {} for the class", templates=("a photo",))
  error("at least one", templates=())
  error("all, train or validation", split="test")
  error("There is no class_file", class_file=tmp_path / "none")
  (tmp_path / "c.txt").write_text("dog x\ncow y\n")
  error("2 lines and none for 'cat'", class_file=tmp_path / "c.txt")
  (tmp_path / "c.txt").write_text("\n")
  error("it is empty", class_file=tmp_path / "c.txt")
  fill(folder, "b.png")
  error(r"f/b.png lies in none \(1 of 2 images do not\)")
