"""Sources: what their records hold in common."""

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


def test_a_subset_has_the_images_and_digest_of_its_records():
  source = Shy(RECORDS)
  subset = sources.Subset(source, range(1, 4))
  assert list(sources.image_ids(subset)) == ["b", "a", "c"]
  digests = [
      sources.digest(sources.Subset(source, range(*r))) for r in ((3,), (1, 4))
  ]
  assert len({*digests, sources.digest(source)}) == 3


def test_an_unreadable_record_is_replaced_by_any_other_unless_it_knows_better():
  rng = np.random.default_rng(0)
  plain = fakes.ListSource(RECORDS)
  drawn = {sources.substitute(plain, 2, rng) for _ in range(200)}
  assert drawn == set(range(5))
  plain.substitute = lambda index, rng: index + 1
  assert sources.substitute(plain, 2, rng) == 3
