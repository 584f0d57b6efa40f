"""A run ends when too many examples were replaced, not when one was."""

import math

import pytest

from siglip_jax.data import replaced


@pytest.mark.parametrize(
    "count, examples, limit, ends",
    [
        (0, 80, 0.01, False),
        (1, 1, 0.01, False),  # the very first
        (1, 8, 0.01, False),
        (1, 80, 0.01, False),
        (2, 80, 0.01, False),
        (8, 80, 0.01, True),
        (10, 1000, 0.01, False),  # the limit itself
        (15, 1000, 0.01, False),
        (40, 1000, 0.01, True),
        (1100, 100_000, 0.01, False),
        (1200, 100_000, 0.01, True),
        (3, 3, 0.01, True),
        (16, 16, 0.2, True),
        (16, 16, 1.0, False),
        (0, 16, 0.0, False),
        (1, 10**9, 0.0, True),
    ],
)
def test_the_share_is_judged_by_what_it_shows(count, examples, limit, ends):
  assert replaced.replaced_too_many(count, examples, limit) == ends


def test_an_example_that_comes_again_each_epoch_shows_nothing_new():
  for epochs in (1, 10, 1000):
    once = epochs, 80 * epochs, 0.01
    assert not replaced.replaced_too_many(*once, distinct=80)
    often = 9 * epochs, 80 * epochs, 0.01
    assert replaced.replaced_too_many(*often, distinct=80)
  assert replaced.replaced_too_many(*once)
  assert not replaced.replaced_too_many(1, 4, 0.01, distinct=80)


def test_chance_ends_a_run_as_rarely_as_is_promised():
  limit = 0.05
  for n in (10, 100, 400):
    first = next(r for r in range(n) if replaced.replaced_too_many(r, n, limit))
    tail = sum(
        math.comb(n, r) * limit**r * (1 - limit) ** (n - r)
        for r in range(first, n + 1)
    )
    assert replaced.CHANCE / 100 < tail < replaced.CHANCE
