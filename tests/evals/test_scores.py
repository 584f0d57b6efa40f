import itertools

import numpy as np
import pytest

from siglip_jax.errors import UserError
from siglip_jax.evals import scores


def test_wilson_against_published_numbers():
  # Newcombe 1998, table I: 81/263 and 0/20 and 15/148.
  assert scores.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
  assert scores.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
  assert scores.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_ties_count_against_the_model():
  similarity = np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
  right = np.array([[True, False, False]] * 2)
  assert scores.ranks(similarity, right).tolist() == [1, 0]


def test_nan_is_wrong():
  similarity = np.full((2, 3), np.nan)
  right = np.eye(2, 3, dtype=bool)
  assert scores.ranks(similarity, right).tolist() == [2, 2]


def test_the_best_positive_counts():
  similarity = np.array([[3.0, 2.0, 1.0, 0.0]])
  positives = np.array([[False, True, False, True]])
  assert scores.ranks(similarity, positives).tolist() == [1]


@pytest.mark.parametrize("k,p,n", [(1, 1, 5), (3, 2, 7), (5, 2, 6), (9, 1, 4)])
def test_chance_by_counting_all_draws(k, p, n):
  draws = list(itertools.combinations(range(n), min(k, n)))
  share = sum(min(d) < p for d in draws) / len(draws)
  assert scores.chance_at(k, p, n) == pytest.approx(share)


def test_chance_without_a_positive_is_zero():
  assert scores.chance_at(10, 0, 5) == 0.0
  score = scores.score("a/b/top1", np.array([False]), 0.0)
  assert score.times_chance == "-"


def test_no_examples_is_the_users_mistake():
  with pytest.raises(UserError, match="at least one example"):
    scores.score("a/b/top1", np.zeros(0, bool), 0.1)


def test_a_loss_is_written_in_nats_and_a_share_in_percent():
  loss = scores.mean("loss/a", np.array([2.0, 2.5, 3.0]), chance=5.5452)
  assert (loss.value_text, loss.chance_text) == ("2.50", "5.545")
  assert loss.interval_text == "1.93 to 3.07"
  assert loss.headline and loss.times_chance == "-"
  share = scores.score("a/b/top1", np.arange(20) < 10, 0.05)
  assert (share.value_text, share.chance_text) == ("50.0%", "5.00%")
  assert share.interval_text == "29.9% to 70.1%"
  assert scores.metrics([loss])["loss/a"] == 2.5


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
  rng = np.random.default_rng(0)
  made = [scores.mean("a", rng.exponential(size=400), 1.0) for _ in range(2000)]
  covered = np.mean([s.lo < 1.0 < s.hi for s in made])
  assert 0.93 < covered < 0.965
  alone = scores.mean("a", np.ones(1), 1.0)
  assert alone.lo == alone.value == alone.hi
