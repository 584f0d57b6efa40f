"""Rows of a share: their places in an order, their texts, their draws."""

import fakes
import numpy as np
import pytest

from siglip_jax.data import order
from siglip_jax.data import tokenizer
from siglip_jax.data.cache import Cache
from siglip_jax.data.loader import chunks
from siglip_jax.data.loader.examples import Share
from siglip_jax.data.loader.examples import TrainingExamples
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


def positions(share, batch):
  return [share.position(batch, row) for row in range(share.rows)]


def test_without_lanes_rows_follow_each_other():
  share = Share(
      first=5, batches=9, batch_size=6, process_index=1, process_count=2
  )
  assert positions(share, 2) == [20, 21, 22]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_lane_has_consecutive_rows_and_each_process_whole_lanes(count):
  """By the definition: position = turn * lanes + lane."""
  lanes, batch_size, first, batch = 4, 12, 8, 3
  rows = []
  for index in range(count):
    share = Share(first, 9, batch_size, lanes, index, count)
    mine = positions(share, batch)
    assert {p % lanes for p in mine} == set(share.my_lanes)
    rows += mine
  base = first + batch * batch_size
  assert rows == [
      (base // lanes + r % 3) * lanes + r // 3 for r in range(batch_size)
  ]
  assert sorted(rows) == list(range(base, base + batch_size))
  assert share.turn(batch) == base // lanes


@pytest.mark.parametrize(
    "values, match",
    [
        ({"process_count": 5}, "batch_size must .* multiple of 5, got 12"),
        ({"lanes": 8}, "8 lanes, batch_size 12 and 1 proc"),
        ({"lanes": 4, "process_count": 3}, "4 lanes, .* and 3 processes"),
        ({"lanes": 4, "first": 6}, "multiple of 4 examples; .* read 6"),
    ],
)
def test_batches_divide_over_processes_and_lanes(values, match):
  with pytest.raises(UserError, match=match):
    Share(**{"first": 0, "batches": 1, "batch_size": 12} | values)


def examples(source, pp, **cache):
  return TrainingExamples(
      source,
      pp,
      cache=Cache(cache.get("cache", 0)),
      indices=order.make(source, seed=0).indices,
      share=Share(first=0, batches=3, batch_size=8),
  )


class Several(fakes.ListSource):
  """Records of which each example gets one of two texts."""

  def draw(self, record, rng):
    return record | {"text": record["texts"][rng.integers(2)]}

  def substitute(self, index, rng):
    del rng
    return index - 1


def several(bad=()):
  return Several(
      [
          {
              "image": b"" if i in bad else fakes.png((i, 0, 0), 4),
              "texts": [f"one {i}", f"two {i}"],
          }
          for i in range(8)
      ]
  )


def values(made, batch=0):
  return [chunks.one(made, batch, row) for row in range(8)]


def test_texts_are_drawn_by_the_source_anew_in_each_epoch():
  pp = Preprocess('decode|keep("image","text")')
  made = examples(several(), pp, cache=10**6)
  texts = [tuple(v["text"] for v in values(made, batch)) for batch in range(3)]
  assert len(set(map(tuple, map(sorted, texts)))) == 3
  drawn = {text.split()[0] for epoch in texts for text in epoch}
  assert drawn == {"one", "two"}
  again = examples(several(), pp)
  assert [v["text"] for v in values(again, 1)] == list(texts[1])


def test_a_source_chooses_what_replaces_a_record(caplog):
  made = examples(several(bad=[5]), Preprocess('decode|keep("image","text")'))
  (row,) = (v for v in values(made) if v["replaced"] >= 0)
  assert row["replaced"] == 5 and row["text"].split()[1] == "4"
  assert "Replaced record 5: the file is empty" in caplog.text


def test_a_network_that_fails_replaces_nothing():
  class Far(Several):

    def __getitem__(self, index):
      raise TryAgain("gs://b/0.tar could not be read in 10 tries")

  with pytest.raises(TryAgain, match="gs://b/0.tar could not be read"):
    values(examples(Far([{}] * 8), Preprocess("decode")))


@pytest.fixture(scope="module")
def pp(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  words = [f"{a} {b}" for a in ("one", "two") for b in range(40)]
  tokenizer.train(words, path, vocab_size=300)
  return Preprocess(
      f'decode|lower|tokenize(max_len=20, model="{path}")|keep("image","text")'
  )


def test_texts_of_a_chunk_are_tokenized_as_one_by_one(pp):
  made = examples(several(), pp)
  begun = [made.begin(0, row) for row in range(8)]
  together = made.finish(begun)
  for found, expected in zip(together, values(made), strict=True):
    assert found.keys() == {"image", "text", "replaced"}
    np.testing.assert_array_equal(found["text"], expected["text"])
    assert found["text"].dtype == np.int32
  assert len({tuple(f["text"]) for f in together}) == 8


def test_a_text_that_cannot_be_tokenized_is_named_by_its_record(pp):
  class Lists(Several):

    def draw(self, record, rng):
      return record | {"text": record["texts"] if self is bad else "a"}

  records = [
      {"image": fakes.png((i, 0, 0), 4), "texts": ["a"]} for i in range(4)
  ]
  bad = Lists(records)
  raw = Preprocess(pp.spec.replace("lower|", ""))
  made = examples(bad, raw)
  begun = [made.begin(0, row) for row in range(3)]
  name = f"record {begun[0].index}"
  with pytest.raises(UserError, match=f"^{name}: tokenize cannot be applied"):
    made.finish(begun)
