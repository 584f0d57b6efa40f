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
