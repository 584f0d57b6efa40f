"""Texts under other keys become the text of a record."""

from collections import Counter

import fakes
import numpy as np
import pytest

from siglip_jax.data import sources
from siglip_jax.data.captioned import Captioned
from siglip_jax.data.images import ImageError
from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError

RECORDS = [
    {"image": b"", "captions/text": [f"{i}{c}" for c in "abcde"], "alt": "x"}
    for i in range(3)
]


def _source(text="captions/text", texts=None):
  return Captioned(fakes.ListSource(RECORDS), Texts.of(text, texts))


def test_each_of_five_captions_is_drawn_a_fifth_of_the_time():
  source, rng = _source(), np.random.default_rng(0)
  record = source[1]
  drawn = Counter(source.draw(record, rng)["text"] for _ in range(50_000))
  assert set(drawn) == set(RECORDS[1]["captions/text"])
  assert all(abs(n / 50_000 - 0.2) < 0.01 for n in drawn.values())


def test_all_texts_are_there_for_evaluations():
  source = _source()
  assert source[2]["text"] == RECORDS[2]["captions/text"]
  assert sources.captions(source, "text")[0] == tuple("0a 0b 0c 0d 0e".split())
  both = _source(None, {"alt": 1, "captions/text": 2})
  assert sources.values(both, "text")[0] == ["x", "0a", "0b", "0c", "0d", "0e"]
  assert sources.values(both, "alt") == ["x"] * 3
  assert both.key(1) == fakes.ListSource(RECORDS).key(1)
  assert list(sources.image_ids(both)) == [0, 1, 2]


def test_the_digest_covers_the_keys():
  digests = {
      sources.digest(s)
      for s in (_source(), _source("alt"), _source(None, {"alt": 2}))
  }
  assert len(digests) == 3


def test_keys_that_no_record_has_are_refused():
  with pytest.raises(UserError, match="must have 'caption'.*has image, captio"):
    _source("caption")


def test_the_first_record_may_be_torn():
  class Torn(fakes.ListSource):

    def __getitem__(self, index):
      if index == 0:
        raise ImageError("it is torn")
      return super().__getitem__(index)

  source = Captioned(Torn(RECORDS), Texts.of("alt", None))
  assert source[1]["text"] == "x"
  with pytest.raises(UserError, match="have 'caption'.*record 1 has image"):
    Captioned(Torn(RECORDS), Texts.of("caption", None))
  torn = Torn(RECORDS[:1])
  assert len(Captioned(torn, Texts.of("caption", None))) == 1
  with pytest.raises(ImageError, match="it is torn"):
    sources.readable_record(torn)
