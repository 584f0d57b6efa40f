"""The values of a condition's parts; tests/data/test_where.py has the rest."""

import numpy as np
import pytest

from siglip_jax.data.tables import compute
from siglip_jax.data.tables import grammar


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(a + 2 * b) / (a - 1) == 4.5", [False, False, True]),
        ("max(a, b, 2.5) == 2.5", [True, False, False]),
        ("a < b", [True, True, False]),
        ("'x' == 'x' and a > 1", [False, True, True]),
        ("a > 1 / 0 or a > 2", [False, False, True]),
        ("a != 1 / 0", [False, False, False]),
        ("s == t", [True, False, False]),
        ("s != t", [False, True, False]),
        ("s <= t", [True, True, False]),
        ("len('abc') == a", [False, False, True]),
    ],
)
def test_parts_have_the_values_of_arithmetic(text, expected):
  columns = {
      "a": np.array([1, 2, 3]),
      "b": np.array([2, 4, 3]),
      "s": np.array(["x", "a", None], object),
      "t": np.array(["x", "b", "c"]),
  }
  tree, names = grammar.parse(text)
  truth = compute.truth(text, tree, {name: columns[name] for name in names})
  assert np.broadcast_to(truth, 3).tolist() == expected
