"""Multipliers over steps: shapes, durations, delays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import schedules
from siglip_jax.errors import UserError

RUN = dict(total_steps=100, batch_size=8)


def schedule(**kwargs):
  return schedules.make(**(RUN | kwargs))


def test_cosine_at_its_landmarks():
  f = schedule(warmup_steps=20, final=0.1)
  early = 0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2
  for at, value in [(0, 0), (20, 1), (40, early), (60, 0.55), (100, 0.1)]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


def test_linear_at_its_landmarks():
  f = schedule(decay="linear", warmup_percent=0.2, final=0.5)
  for at, value in [(0, 0), (20, 1), (60, 0.75), (100, 0.5), (120, 0.5)]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


def test_rsqrt_falls_after_warmup_and_cools_down():
  f = schedule(decay="rsqrt", timescale=16, warmup_steps=4, cooldown_steps=20)
  for at, value in [
      (0, 0),
      (2, 0.5),
      (4, 1),
      (20, np.sqrt(16 / 32)),
      (80, np.sqrt(16 / 92)),
      (90, 0.5 * np.sqrt(16 / 102)),
      (100, 0),
  ]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "none"])
def test_multipliers_stay_between_zero_and_one(decay):
  f = schedule(decay=decay, warmup_steps=7, cooldown_steps=11, timescale=10)
  values = jax.vmap(f)(jnp.arange(130))
  assert values.min() >= 0 and values.max() <= 1
  assert values[100] == 0


@pytest.mark.parametrize(
    "given, expected",
    [
        (dict(x_steps=30), 30),
        (dict(x_steps=30, x_percent=None), 30),
        (dict(x_examples=240), 30),
        (dict(x_percent=0.3), 30),
        (dict(x_epochs=1.5), 30),
    ],
)
def test_durations_in_every_unit(given, expected):
  assert schedules.steps("x", given, 100, 8, num_examples=160) == expected


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(), "x must be given once.*x_epochs; got none"),
        (dict(x_steps=1, x_percent=0.1), "got x_steps and x_percent"),
        (dict(x_percent=10), r"x_percent must be in \[0, 1\]; got 10"),
        (dict(x_steps=-1), "x_steps must be at least 0; got -1"),
        (dict(x_steps=float("nan")), "got nan"),
        (dict(x_epochs=1), "needs the number of examples.*x_steps"),
    ],
)
def test_wrong_durations_are_named(given, message):
  with pytest.raises(UserError, match=message):
    schedules.steps("x", given, 100, 8)


def test_a_delay_moves_the_whole_schedule():
  delayed = schedule(decay="cosine", delay_steps=20, warmup_steps=10)
  assert [float(delayed(n)) for n in (0, 19, 20)] == [0.0, 0.0, 0.0]
  usual = schedule(decay="cosine", warmup_steps=10, total_steps=80)
  for n in range(0, 81, 5):
    assert float(delayed(20 + n)) == pytest.approx(float(usual(n)), abs=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "none"])
def test_without_warm_up_a_delay_ends_at_the_peak(decay):
  delayed = schedule(decay=decay, delay_percent=0.5, cooldown_steps=20)
  assert [float(delayed(n)) for n in (0, 49, 50)] == [0.0, 0.0, 1.0]
  assert float(delayed(100)) == 0.0


def test_a_delay_has_a_unit_and_fits_the_run():
  assert schedules.delayed(100, 8, delay_examples=80) == 10
  assert schedules.delayed(100, 8, decay="none") == 0
  with pytest.raises(UserError, match=r"\(95\) leaves of the run \(100\)"):
    schedule(delay_steps=95, warmup_steps=10)


def test_a_timescale_that_divides_by_zero_is_refused():
  with pytest.raises(UserError, match="timescale must be at least 1 step; got"):
    schedule(decay="rsqrt", timescale=0)
