"""Conditions on columns: what they choose, and what they refuse."""

import pickle
import time

import numpy as np
import pytest

from siglip_jax.data import where
from siglip_jax.errors import UserError

COLUMNS = {
    "width": np.array([100, 200, 300, 400], np.uint16),
    "height": np.array([300, 200, 100, 0], np.uint16),
    "score": np.array([0.1, np.nan, 0.3, 0.4], np.float32),
    "language": np.array(["en", None, "de", "fr"], object),
    "marked": np.array([True, False, True, False]),
    "json.clip score": np.array([1.0, 2.0, 3.0, 4.0]),
    "a.b": np.array([1, 2, 3, 4]),
}


def chosen(text):
  condition = where.compile(text)
  columns = {name: COLUMNS[name] for name in condition.columns}
  return np.flatnonzero(condition.select(columns)).tolist()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("min(width, height) >= 200", [1]),
        ("max(width, height) <= 2 * min(width, height)", [1]),
        ("100 < width <= 300", [1, 2]),
        ("width * width * width > 60000000", [3]),  # over 16 and 32 bits
        ("width > 70000", []),
        ("width / height > 1", [2]),  # a division by 0 is absent
        ("-width + 250 > 0", [0, 1]),
        ("abs(width - 250) < 60", [1, 2]),
        ("score > 0.2 and width < 400", [2]),
        ("score < 5", [0, 2, 3]),
        ("not score < 5", [1]),
        ("score != 0.4 or width == 200", [0, 1, 2]),
        ("score != score", []),
        ("language in ('en', 'de')", [0, 2]),
        ("language not in ('en', 'de')", [3]),
        ("language != 'en'", [2, 3]),
        ("language > 'dz'", [0, 3]),
        ("len(language) == 2", [0, 2, 3]),
        ("width in (100, -4, 400.0)", [0, 3]),
        ("marked and not width == 100", [2]),
        ('column("json.clip score") > 3 or a.b == 1', [0, 3]),
        ("width > 1\nand a.b > 3", [3]),
    ],
)
def test_a_condition_chooses_the_rows_it_is_true_for(text, expected):
  assert chosen(text) == expected


@pytest.mark.parametrize(
    "column, text",
    [
        (np.array(["en", "", "fr"]), "x in ('en', 'fr')"),
        (np.array([b"en", b"", b"fr"]), "x in ('en', 'fr')"),
        (np.array([1, None, 3], object), "x > 0"),
        (np.array([True, False, True], object), "x"),
        (np.array([2**63 + 1, 0, 2**63 + 1], np.uint64), f"x == {2**63 + 1}"),
        (np.array([1, 0, 1], np.uint8), "x == 1 and x < 300 and x > -1"),
    ],
)
def test_columns_come_in_many_types(column, text):
  assert where.compile(text).select({"x": column}).tolist() == [True, False] + [
      True
  ]


@pytest.mark.parametrize(
    "text", ["x > 3", "x < 'a'", "x in (1, 2)", "len(x) > 0"]
)
def test_a_column_without_any_value_chooses_nothing(text):
  for column in (np.array([None, None], object), np.array([np.nan, np.nan])):
    assert not where.compile(text).select({"x": column}).any()
  assert where.compile(text).select({"x": np.zeros(0)}).shape == (0,)


@pytest.mark.parametrize(
    "text, match",
    [
        ("language > 3", "number in 'language'.* It holds texts"),
        ("width == 'x'", "text in 'width'.* It holds numbers"),
        ("width and score > 3", "truth value in 'width'.*Compare it"),
        ("language + 1 > 3", "number in 'language'"),
        ("len(width) > 3", "text in 'width'"),
    ],
)
def test_columns_of_another_kind_are_told(text, match):
  with pytest.raises(UserError, match=match):
    chosen(text)


def test_columns_that_are_not_there_are_told_with_those_that_are():
  condition = where.compile("similarity > 0.3")
  with pytest.raises(UserError, match="'similarity'. They have b, width"):
    condition.select({"width": np.zeros(3), "b": np.zeros(3)})
  with pytest.raises(UserError, match="column 'similarity' has object"):
    condition.select({"similarity": np.array([[1], {}, None], object)})


def test_a_condition_goes_to_other_processes():
  condition = where.compile("width > 3 and a.b == 1")
  again = pickle.loads(pickle.dumps(condition))
  assert again == condition and again.columns == ("a.b", "width")
  assert again.select(COLUMNS).tolist() == [True, False, False, False]


def test_parts_of_many_rows_are_the_whole(monkeypatch):
  expected = chosen("score > 0.2 or language == 'en'")
  monkeypatch.setattr(where, "_ROWS", 3)
  assert chosen("score > 0.2 or language == 'en'") == expected


def test_a_million_rows_take_less_than_a_second():
  rng = np.random.default_rng(0)
  count = 1_000_000
  languages = np.array(["en", "de", "fr", None], object)
  columns = {
      "width": rng.integers(1, 1000, count),
      "height": rng.integers(1, 1000, count),
      "similarity": rng.random(count, np.float32),
      "language": languages[rng.integers(0, 4, count)],
  }
  condition = where.compile(
      "min(width, height) >= 200 and similarity >= 0.28 and"
      " language in ('en', 'de')"
  )
  begin = time.process_time()
  rows = condition.select(columns)
  assert time.process_time() - begin < 1
  assert 0.2 < rows.mean() < 0.26
