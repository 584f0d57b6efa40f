"""Which checkpoint is the best, and when a run stops early."""

import math

import pytest

from siglip_jax.errors import UserError
from siglip_jax.metrics import history


def lines(*values, name="loss/val"):
  """Lines at steps 10, 20, ..., with lines of training between."""
  scored = [{"step": 10 * i, name: v} for i, v in enumerate(values, 1)]
  train = [{"step": 5 * i, "train/loss": 0.0} for i in range(1, 20)]
  return scored + train


def test_the_best_step_is_the_first_of_the_best_among_those_allowed():
  best = history.best_step
  past = lines(3.0, 1.0, 1.0, 2.0)
  assert best(past, "loss/val", "", range(100)) == 20
  assert best(past, "loss/val", "", [10, 30, 40]) == 30
  assert best(past, "loss/val", "max", range(100)) == 10
  assert best(lines(0.2, 0.4, name="top1"), "top1", "", range(100)) == 20
  assert best(lines(0.2, 0.4, name="top1"), "top1", "min", range(100)) == 10


def test_a_value_that_is_not_finite_is_never_the_best():
  past = lines(None, math.nan, 5.0)
  for mode in ("min", "max"):
    assert history.best_step(past, "loss/val", mode, range(100)) == 30
    assert history.best_step(past, "loss/val", mode, [10, 20, 50]) is None
  assert history.best_step([], "loss/val", "", [10]) is None


def test_a_run_stops_after_evaluations_without_an_improvement():
  stop = lambda *values, **options: history.stopped(
      lines(*values), metric="loss/val", **options
  )
  assert stop(3.0, 2.0, 2.0, 2.5, 1.0, patience=2) == 40
  assert stop(3.0, 2.0, 2.0, 1.5, 1.6, patience=2) is None
  assert stop(3.0, 2.0, 2.0, 1.5, 1.6, 1.7, patience=2) == 60
  assert stop(3.0, 2.9, 2.8, patience=2, min_delta=0.5) == 30
  assert stop(3.0, 2.9, 2.4, patience=2, min_delta=0.5) is None
  assert stop(1.0, 2.0, 3.0, patience=2, mode="max") is None
  assert stop(1.0, None, math.nan, 0.5, patience=2) == 30
  assert stop(patience=1) is None


def test_lines_out_of_order_do_not_change_the_step():
  past = lines(3.0, 2.0, 2.0, 2.5, 1.0)
  for rows in (past, past[::-1]):
    assert history.stopped(rows, metric="loss/val", patience=2) == 40


def test_an_unknown_mode_is_told():
  with pytest.raises(UserError, match="one of 'min', 'max' .*got 'best'"):
    history.best_step([], "a", "best", [])
