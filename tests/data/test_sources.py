"""Sources: which one is asked for, and what their records hold in common."""

import fakes
import numpy as np
import pytest

from siglip_jax.data import opening
from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError


class Shy(fakes.ListSource):
  """A source with a record that cannot be read, and images in common."""

  def __init__(self, records, bad=None):
    super().__init__(records)
    self._bad = bad

  def __getitem__(self, index):
    if index == self._bad:
      raise ImageError("it is torn")
    return super().__getitem__(index)

  def image_ids(self):
    return [record["file"] for record in self._records]


RECORDS = [
    {"file": f, "text": f"text {i}", "n": i} for i, f in enumerate("abacb")
]


def test_missing_data_sets_are_named_by_path(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}/nothing.*Prepare it"):
    sources.make(name="nothing", split="train", data_dir=tmp_path)
  with pytest.raises(UserError, match="siglip_jax.data.emoji"):
    sources.make(name="emoji", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("both", [{}, {"name": "emoji", "path": "x"}])
def test_data_come_from_one_place(both):
  with pytest.raises(UserError, match="exactly one|either `name`"):
    sources.make(split="train", **both)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(path="s3://bucket/images"),
        dict(name="coco", data_dir="gs://bucket/tfds"),
        dict(embeddings="hf://datasets/me/mine"),
    ],
)
def test_urls_say_to_mount_or_copy(arguments):
  with pytest.raises(UserError, match="://.*. Mount the bucket, or copy"):
    sources.make(split="train", **arguments)


def test_values_of_a_source_that_has_only_records(monkeypatch):
  monkeypatch.setattr(sources, "_CHUNK", 2)
  assert sources.values(fakes.ListSource(RECORDS), "n") == [0, 1, 2, 3, 4]
  assert sources.values(fakes.ListSource([]), "n") == []


def test_values_that_are_not_there_are_named():
  with pytest.raises(
      sources.BadValue,
      match="'m' must be in every record; record 0 has file, t",
  ):
    sources.values(fakes.ListSource(RECORDS), "m")
  with pytest.raises(UserError, match="record 3 cannot be read: it is torn"):
    sources.values(Shy(RECORDS, bad=3), "n")


def test_reading_many_records_shows_its_progress(monkeypatch, capsys):
  now = iter(range(0, 100, 3))
  monkeypatch.setattr(opening.time, "monotonic", lambda: next(now))
  sources.values(fakes.ListSource(RECORDS), "n")
  assert "Reading 'n', records: 5" in capsys.readouterr().err


def test_captions_are_a_text_or_several():
  values = ["a", ["b", "c"], ("d",)]
  source = fakes.ListSource([{"text": v} for v in values])
  assert sources.captions(source, "text") == ["a", ("b", "c"), ("d",)]


@pytest.mark.parametrize(
    "value", [3, 2.5, True, None, b"x", [], ["a", 3], np.zeros(2), [["a"]]]
)
def test_captions_of_other_kinds_are_refused_by_name(value):
  source = fakes.ListSource([{"text": "a"}, {"text": value}])
  with pytest.raises(sources.BadValue, match="'text' must be .*; record 1 has"):
    sources.captions(source, "text")


def test_records_that_share_an_image_are_one_image():
  source = Shy(RECORDS)
  once, rows = sources.distinct_images(source)
  assert [once[i]["file"] for i in range(len(once))] == ["a", "b", "c"]
  assert once.key(2) == "record 3"
  assert rows.tolist() == [0, 1, 0, 2, 1]
  plain = fakes.ListSource(RECORDS)
  assert sources.distinct_images(plain) == (plain, None)


def test_sources_without_a_digest_differ_by_their_length():
  digests = [sources.digest(fakes.ListSource(RECORDS[:n])) for n in (2, 2, 3)]
  assert digests[0] == digests[1] != digests[2]
