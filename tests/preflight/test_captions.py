"""What the captions hide is told from a sample, as training tokenizes them."""

from pathlib import Path

import fakes
import ml_collections
import numpy as np
import pytest

from siglip_jax.data.folders import FolderSource
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError
from siglip_jax.preflight import captions

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def look(place):
  """Statistics of texts, or of whole records."""

  def look(
      records,
      *,
      model=place / "tokenizer.model",
      pp="decode|inception_crop(16)|value_range(-1,1)|lower|{tokenize}|keep"
      '("image", "text")',
      batch_size=8,
      text_len=32,
      loss="sigmoid",
      seed=0,
      eos="sticky",
  ):
    tokenize = f'tokenize(max_len={text_len}, model="{model}", eos="{eos}")'
    config = ml_collections.ConfigDict(
        {
            "seed": seed,
            "batch_size": batch_size,
            "text_len": text_len,
            "loss": {"name": loss},
        }
    )
    if not hasattr(records, "key"):
      records = fakes.ListSource(
          [r if isinstance(r, dict) else {"text": r} for r in records]
      )
    return captions.look(
        config, records, Preprocess(pp.format(tokenize=tokenize))
    )

  return look


def floor(k):
  """The least sigmoid loss of k pairs, one positive, by search."""
  p = np.linspace(1e-6, 1 - 1e-6, 400_001)
  return float(np.min(-np.log(p) - (k - 1) * np.log(1 - p)))


def test_different_captions_are_told_without_a_warning(look):
  found = look([f"Red image {i}" for i in range(20)])
  assert (found.examples, found.read, found.cut, found.empty) == (20, 20, 0, 0)
  assert found.different == found.texts == 20
  assert (found.copies, found.floor) == (1, 0)
  assert found.warnings() == []
  lines = found.summary().splitlines()
  assert "(20 of 20 read): 0.0% cut at text_len = 32, 20 diff" in lines[0]
  assert lines[1].endswith(" 8 holds each text or image 1.00 times on average.")


def test_captions_that_differ_after_the_cut_are_one_text(look):
  found = look([f"{'an image of ' * 9} {i}" for i in range(10)], text_len=16)
  assert (found.cut, found.different, found.texts) == (10, 10, 1)
  assert found.copies == 8
  same, crowd = found.warnings()
  assert "Of 10 different captions, tokenizing leaves only 1: 100.0%" in same
  assert "Raise text_len" in same
  assert "the loss sigmoid cannot fall below about 3.01" in crowd
  assert "the loss sigmoid cannot fall below 3.01" in found.summary()


@pytest.mark.parametrize("eos", ["sticky", "yes", "none"])
def test_a_caption_is_cut_where_a_token_is_lost(look, place, eos):
  tokenizer = Preprocess(
      f'tokenize(max_len=9, model="{place / "tokenizer.model"}")'
  ).tokenizer
  texts = ["a" * i for i in range(1, 30)]
  for length in (3, 8):
    lost = 0
    for text in texts:
      whole = tokenizer.encode(text, max_len=64, eos="none", pad_value=-1)
      kept = tokenizer.encode(text, max_len=length, eos=eos, pad_value=-1)
      content = kept[(kept >= 0) & (kept != tokenizer.eos_id)]
      lost += len(content) < (whole >= 0).sum()
    assert 0 < lost < len(texts)
    assert look(texts, text_len=length, eos=eos).cut == lost


def test_captions_that_are_cut_alone_are_warned_of_if_they_are_most(look):
  texts = [f"{i} {'an image ' * 9}" for i in range(6)]
  (warning,) = look([*texts, *"abcde"], text_len=10).warnings()
  assert "54.5% of the captions are longer than 10 tokens" in warning
  assert look([*texts, *"abcdefgh"], text_len=10).warnings() == []


def test_letters_that_a_tokenizer_does_not_know_are_not_a_cut():
  unknown = captions.Captions(
      examples=9,
      read=9,
      cut=1,
      empty=0,
      different=9,
      texts=2,
      text_len=32,
      batch_size=2,
      loss="bce_mean",
      copies=1.0,
      floor=None,
  )
  (warning,) = unknown.warnings()
  assert "tokenizer does not tell them apart" in warning
  assert "text_len" not in warning


def test_empty_captions_are_those_without_a_token_or_of_spaces(look):
  texts = [f"image {i}" for i in range(96)] + ["", "  ", "...", "\u200b"]
  pp = "strip_punctuation|{tokenize}"
  found = look(texts, pp=pp, batch_size=2)
  assert found.empty == 4
  (warning,) = found.warnings()
  assert warning.startswith("4.0% of the captions are empty")
  # This tokenizer has pieces for spaces.
  model = FIXTURES / "gemma.model"
  found = look(["  ", *map(str, range(99))], model=model, batch_size=2)
  assert found.empty == 1 and found.warnings() == []


def test_the_copies_in_a_batch_are_those_of_drawn_batches(look):
  # One caption of 60 images, 40 of two each, and 160 of one each.
  texts = ["a"] * 60 + [f"b {i // 2}" for i in range(80)]
  texts += [f"c {i}" for i in range(160)]
  found = look(texts, batch_size=64)
  rng = np.random.default_rng(1)
  counts = []
  for _ in range(300):
    batch = rng.permutation(texts)[:64].tolist()
    counts += [batch.count(t) for t in batch]
  assert found.copies == pytest.approx(np.mean(counts), rel=0.02)
  # The mean of the floors, far below the floor of the mean.
  floors = {k: floor(k) for k in set(counts)}
  expected = np.mean([floors[k] for k in counts])
  assert found.floor == pytest.approx(expected, rel=0.03)
  assert found.floor < 0.8 * floor(found.copies)
  softmax = look(texts, batch_size=64, loss="ring_softmax")
  assert softmax.floor == pytest.approx(np.log(counts).mean(), rel=0.03)


def test_all_data_in_each_batch_are_exactly_as_equal_as_they_are(look):
  found = look([f"text {i // 2}" for i in range(20)], batch_size=20)
  assert found.copies == 2 and found.floor == pytest.approx(floor(2))


def test_a_sample_says_of_the_whole_what_the_whole_says(look):
  texts = [f"caption {i // 6}" for i in range(6000)]
  found = look(texts, batch_size=512)
  assert (found.examples, found.read) == (6000, captions.SAMPLE)
  assert "(1,000 of 6,000 read)" in found.summary()
  assert found.copies == pytest.approx(1 + 511 * 5 / 5999, rel=0.1)
  assert look(texts, batch_size=512) == found
  assert look(texts, batch_size=512, seed=1) != found


def test_a_batch_larger_than_the_data_holds_each_example_often(look):
  found = look([f"image {i}" for i in range(10)], batch_size=64)
  assert found.copies == pytest.approx(6.4)
  assert found.floor == pytest.approx(floor(6.4), abs=1e-4)
  (warning,) = found.warnings()
  assert "batch_size = 64 is more than the 10 training examples" in warning
  assert "cannot fall below about 2.77" in warning
  (warning,) = look("ab", batch_size=4, loss="bce_mean").warnings()
  assert "or image 2.00 times. Lower config.batch_size" in warning


def test_one_image_with_several_captions_is_a_copy_too(look):
  folder = FolderSource(
      Path("none"), tuple((f"{i // 5}.png", f"text {i}") for i in range(50))
  )
  found = look(folder, batch_size=50)
  assert found.texts == 50 and found.copies == 5
  (warning,) = found.warnings()
  assert "cannot fall below about 2.50" in warning


def test_images_of_a_folder_are_not_read_and_a_lost_record_is_left_out(look):
  class Lost(fakes.ListSource):

    def __getitem__(self, index):
      if index == 1:
        raise ImageError("gone")
      return super().__getitem__(index)

  folder = FolderSource(Path("none"), (("a.png", "one"), ("b.png", "two")))
  assert look(folder).read == 2
  assert look(Lost([{"text": "a"}, {}, {"text": "b"}])).read == 2
  with pytest.raises(UserError, match="can be read: all of 1 .*record 0"):
    look(type("Gone", (Lost,), {"__getitem__": _gone})([{}]))


def _gone(self, index):
  raise ImageError("gone")


def test_the_operations_on_texts_are_those_of_training(look):
  records = [
      {"image": b"no image", "en": "A", "de": f"B {i}"} for i in range(9)
  ]
  pp = (
      'decode|choice("en", "de", outkey="text")|keep("image", "text")'
      "|{tokenize}"
  )
  found = look(records * 9, pp=pp)
  assert 2 < found.different <= 10 and found == look(records * 9, pp=pp)
  found = look(records, pp='decode|copy("en", "text")|{tokenize}')
  assert found.texts == 1


@pytest.mark.parametrize(
    "record, words",
    [
        ({"text": 5}, "record 2 cannot: "),
        ({"label": 5}, "record 2 cannot: .*text"),
        ({"text": "\ud800"}, "record 2 cannot: "),
    ],
)
def test_a_caption_that_is_not_text_is_named(look, record, words):
  records = [{"text": "a"}, {"text": "b"}, record]
  for pp in ("{tokenize}", "lower|{tokenize}"):
    with pytest.raises(UserError, match=words) as raised:
      look(records, pp=pp)
    assert "\n" not in str(raised.value)


def test_the_report_prints_and_warns(look, capsys, monkeypatch):
  logged = []
  monkeypatch.setattr(
      captions.logging,
      "warning",
      lambda form, *args: logged.append(form % args),
  )
  found = look(["many words " * 9] * 4, text_len=8, batch_size=4)
  captions.report(found)
  assert capsys.readouterr().out == found.summary() + "\n"
  assert logged == found.warnings() and "100.0% of" in logged[0]
