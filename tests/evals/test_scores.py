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
