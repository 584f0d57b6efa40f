from fakes import ListSource
from fakes import PerfectEncoder
import numpy as np
import pytest

from siglip_jax.errors import UserError
from siglip_jax.evals import retrieval

# "cat" has three images, the rest one each.
TEXTS = ["cat", "dog", "cat", "owl", "cat", *(f"thing {i}" for i in range(15))]


def make(texts=TEXTS, images=TEXTS):
  return retrieval.Retrieval(
      dataset="fake",
      source=ListSource([{"text": t} for t in images]),
      texts=texts,
  )


def run(encoder):
  return {s.name.split("/")[-1]: s for s in make().run(encoder).scores}


def test_perfect_encoder_finds_everything():
  found = run(PerfectEncoder(TEXTS))
  assert list(found) == [
      f"{way}@{k}" for way in ("img2txt", "txt2img") for k in (1, 5, 10)
  ]
  assert all(s.value == 1.0 for s in found.values())


def test_equal_captions_are_one_text_with_several_images():
  found = run(PerfectEncoder(TEXTS))
  assert (found["img2txt@1"].n, found["txt2img@1"].n) == (20, 18)
  assert found["img2txt@1"].chance == pytest.approx(1 / 18)
  assert found["txt2img@1"].chance == pytest.approx((3 / 20 + 17 / 20) / 18)


def test_chance_is_what_a_random_encoder_reaches():
  found = run(PerfectEncoder(TEXTS))
  rng = np.random.default_rng(0)
  groups = np.array([TEXTS.index(t) for t in TEXTS])
  hits = [
      np.mean([g in groups[rng.permutation(20)[:5]] for g in np.unique(groups)])
      for _ in range(2000)
  ]
  assert found["txt2img@5"].chance == pytest.approx(np.mean(hits), abs=0.01)


def test_constant_encoder_finds_nothing():

  class Constant(PerfectEncoder):

    def encode_texts(self, texts):
      return np.ones((len(texts), 4), np.float32)

  assert all(s.value == 0.0 for s in run(Constant(TEXTS)).values())


def test_chunks_do_not_change_the_result(monkeypatch):
  whole = run(PerfectEncoder(TEXTS))
  monkeypatch.setattr(retrieval, "_ROWS", 3)
  assert run(PerfectEncoder(TEXTS)) == whole


@pytest.mark.parametrize("texts,images", [(TEXTS[:3], TEXTS), ([], [])])
def test_mistakes_are_named(texts, images):
  with pytest.raises(UserError, match="one caption for each"):
    make(texts, images)


class Numbers:
  """An encoder that knows which image each caption belongs to."""

  temperature, bias = 10.0, -5.0

  def __init__(self, owner, images, noise=0.0):
    self._owner, self._images, self._noise = owner, images, noise

  def _encode(self, numbers):
    z = np.eye(1 + max(self._images))[numbers]
    z = z + np.random.default_rng(0).normal(0, self._noise + 1e-9, z.shape)
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)

  def encode_source(self, source):
    return self._encode(self._images)

  def encode_texts(self, texts):
    return self._encode([self._owner[t] for t in texts])


CAPTIONS = [[f"caption {k} of {i}" for k in range(5)] for i in range(20)]
OWNER = {t: i for i, texts in enumerate(CAPTIONS) for t in texts}


def one_line_a_caption():
  """Each image five times, once with each caption."""
  images = [i for i in range(20) for _ in range(5)]
  made = retrieval.Retrieval(
      dataset="fake",
      source=ListSource([{}] * 100),
      texts=[t for texts in CAPTIONS for t in texts],
      images=[f"{i}.png" for i in images],
  )
  return made, images


def one_record_an_image():
  """Each image once, with a list of captions."""
  made = retrieval.Retrieval(
      dataset="fake", source=ListSource([{}] * 20), texts=CAPTIONS
  )
  return made, list(range(20))


@pytest.mark.parametrize("make", [one_line_a_caption, one_record_an_image])
def test_any_caption_of_an_image_is_right_and_each_is_a_query(make):
  made, images = make()
  scores = {
      s.name.split("/")[-1]: s
      for s in made.run(Numbers(OWNER, images, 1e-3)).scores
  }
  assert all(s.value == 1.0 for s in scores.values())
  assert (scores["img2txt@1"].n, scores["txt2img@1"].n) == (20, 100)
  assert scores["img2txt@1"].chance == pytest.approx(5 / 100)
  assert scores["txt2img@1"].chance == pytest.approx(1 / 20)


def test_both_ways_to_give_several_captions_score_the_same():
  results = []
  for make in (one_line_a_caption, one_record_an_image):
    made, images = make()
    # The first record's row of each image: noise as strong as the signal.
    encoder = Numbers(OWNER, images)
    rows = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    encoder.encode_source = lambda source, r=rows, i=images: r[i]
    results.append(made.run(encoder).scores)
  assert results[0] == results[1]
  assert 0 < results[0][0].value < 1


def test_a_caption_that_two_images_share_is_right_for_both():
  made = retrieval.Retrieval(
      dataset="fake",
      source=ListSource([{}] * 3),
      texts=[["x", "a"], ["x", "b"], "c"],
  )

  class Halves(Numbers):

    def encode_texts(self, texts):
      z = {"x": [1, 1, 0], "a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
      return np.array([z[t] for t in texts], np.float32)

  scores = made.run(Halves({}, [0, 1, 2])).scores
  assert [s.value for s in scores if s.name.endswith("@1")] == [1.0, 1.0]


@pytest.mark.parametrize("images", [["a"], ["a"] * 21])
def test_every_record_has_an_image(images):
  with pytest.raises(UserError, match="needs images"):
    retrieval.Retrieval(
        dataset="fake",
        source=ListSource([{}] * 20),
        texts=TEXTS,
        images=images,
    )
