"""Evaluators made from sections: which texts and labels they read."""

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import folders
from siglip_jax.errors import UserError
from siglip_jax.evals import datasets


@pytest.fixture
def folder(tmp_path):
  return str(fakes.captioned_folder(tmp_path / "images"))


def test_names_come_from_all_splits_asked_for(folder):
  made = datasets.classification(
      dataset="d", path=folder, split="validation", text="text", classes=["all"]
  )
  assert len(made.class_names) == 6
  for i, label in enumerate(made.labels):
    assert made.class_names[label] == made.source[i]["text"]


def test_a_record_without_the_text_is_named(folder):
  with pytest.raises(
      UserError, match=".name. must be .*000.png has image, text"
  ):
    datasets.retrieval(dataset="d", path=folder, split="all", text="name")


def test_labels_are_numbers(folder, tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("a\nb\n")
  with pytest.raises(UserError, match=".text. must be a whole number; .*image"):
    datasets.classification(
        dataset="d",
        path=folder,
        split="all",
        label="text",
        class_file=str(names),
    )


def test_half_a_section_says_what_is_needed(folder):
  with pytest.raises(UserError, match="needs `text` and `classes`, or"):
    datasets.classification(dataset="d", path=folder, split="all", label="x")
  with pytest.raises(UserError, match="no class file gone.txt"):
    datasets.classification(
        dataset="d", path=folder, split="all", label="x", class_file="gone.txt"
    )


@pytest.fixture
def records(monkeypatch):
  """Makes the records that evaluators read."""
  return lambda *records: monkeypatch.setattr(
      datasets.kinds, "make", lambda **_: fakes.ListSource(records)
  )


def test_lists_of_captions_are_what_they_are(records):
  records({"text": ["a", "b"]}, {"text": "c"})
  made = datasets.retrieval(dataset="d", split="all")
  assert made.texts == [("a", "b"), "c"]
  with pytest.raises(
      UserError, match="'text' must be one text; record 0 has a"
  ):
    datasets.classification(dataset="d", split="all", text="text")


@pytest.mark.parametrize("value", [3, True, 1.5, None, b"x", [], ["a", 3]])
def test_other_kinds_of_text_are_refused_by_name(records, value):
  records({"text": "a"}, {"text": value})
  for make in (datasets.retrieval, datasets.classification):
    with pytest.raises(UserError, match="'text' must be .*; record 1 has") as e:
      make(dataset="d", split="all", text="text")
    assert "config.evals" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("value", ["1", 1.0, True, None, [1], np.float32(1)])
def test_labels_are_whole_numbers(records, tmp_path, value):
  names = tmp_path / "names.txt"
  names.write_text("a\nb\n")
  options = dict(dataset="d", split="all", label="n", class_file=str(names))
  records({"n": 1}, {"n": np.int64(0)})
  assert datasets.classification(**options).labels == [1, 0]
  records({"n": 1}, {"n": value})
  with pytest.raises(UserError, match="'n' must be a whole number; record 1"):
    datasets.classification(**options)
  records({"n": 1}, {"n": 2})
  with pytest.raises(
      UserError, match=r"in \[0, 2\), .* 1 of 2 .*record 1 has 2"
  ):
    datasets.classification(**options)


def test_images_are_told_apart_by_file_or_by_a_key(folder, records):
  made = datasets.retrieval(dataset="d", path=folder, split="all")
  assert made.images[0] == "000.png" and len(set(made.images)) == 48
  records({"text": "a", "id": 7}, {"text": "b", "id": 7})
  made = datasets.retrieval(dataset="d", split="all", image_id="id")
  assert made.images == [7, 7]
  records({"text": "a", "id": 7.5})
  with pytest.raises(UserError, match="'id' must be a text or a whole number"):
    datasets.retrieval(dataset="d", split="all", image_id="id")


def test_texts_are_read_without_images(folder, monkeypatch):
  monkeypatch.delattr(folders.FolderSource, "__getitem__")
  datasets.retrieval(dataset="d", path=folder, split="all")
  datasets.classification(
      dataset="d", path=folder, split="validation", text="text", classes=["all"]
  )


@pytest.mark.parametrize(
    "content, match",
    [
        (b"a\n\nb\n", "line 2 is blank"),
        (b"a\nb\n  \nc", "line 3 is blank"),
        (b"", "line 1 is blank"),
        (b"a\nb\n a \n", "lines 1 and 3 are both 'a'"),
        (b"caf\xe9\n", "must be UTF-8; .*names.txt is not, at byte 3"),
    ],
)
def test_class_files_name_each_class_once(folder, tmp_path, content, match):
  names = tmp_path / "names.txt"
  names.write_bytes(content)
  with pytest.raises(UserError, match=match) as e:
    datasets.classification(
        dataset="d",
        path=folder,
        split="all",
        label="text",
        class_file=str(names),
    )
  assert str(names) in str(e.value)


def test_class_files_may_have_spaces_marks_and_any_ends_of_lines(
    records, tmp_path
):
  names = tmp_path / "names.txt"
  names.write_bytes("\ufeffa \r\n\tb\u2028c\r\n\n".encode())
  records({"n": 1})
  made = datasets.classification(
      dataset="d", split="all", label="n", class_file=str(names)
  )
  assert made.class_names == ["a", "b\u2028c"]


def test_a_folder_is_not_a_class_file(folder):
  with pytest.raises(UserError, match="no class file .*Is a directory"):
    datasets.classification(
        dataset="d", path=folder, split="all", label="n", class_file=folder
    )


def test_images_of_the_web_that_cannot_be_read_are_left_out(tmp_path, caplog):
  folder = fakes.captioned_folder(tmp_path, 8)
  (folder / "003.png").write_bytes(b"not an image")
  made = datasets.retrieval(
      dataset="web", split="all", path=str(folder), leave_out_unreadable=True
  )
  assert len(made.source) == len(made.texts) == 7
  assert "1 of 8 images of config.evals for web cannot be read" in caplog.text
  keys = [made.source.key(i) for i in range(7)]
  assert not any("003" in key for key in keys)


def test_folders_of_classes_have_labels(tmp_path):
  for name in ("n02", "n01"):
    (tmp_path / "val" / name).mkdir(parents=True)
    for i in range(2):
      Image.new("RGB", (9, 9)).save(tmp_path / "val" / name / f"{i}.png")
  (tmp_path / "classes.txt").write_text("tench\ncock\n")
  made = datasets.classification(
      dataset="imagenet",
      split="all",
      path=str(tmp_path / "val"),
      label="label",
      class_folders=True,
      class_file=str(tmp_path / "classes.txt"),
  )
  assert made.labels == [0, 0, 1, 1]
  assert made.source.key(0).endswith("n01/0.png")
