"""Evaluators made from sections: which texts and labels they read."""

import fakes
import pytest

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
  with pytest.raises(UserError, match="needs 'name' .*png has image, text"):
    datasets.retrieval(dataset="d", path=folder, split="all", text="name")


def test_labels_are_numbers(folder, tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("a\nb\n")
  with pytest.raises(UserError, match="'text' to be of type int; .*image"):
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
