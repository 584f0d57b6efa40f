"""Types of Arrow columns, and values inside structs and lists."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from siglip_jax.data.tables import arrow
from siglip_jax.errors import UserError

SCHEMA = pa.schema(
    {
        "a.b": pa.string(),
        "s": pa.struct({"t": pa.list_(pa.struct({"u": pa.string()}))}),
        "l": pa.large_list(pa.string()),
        "d": pa.dictionary(pa.int8(), pa.string()),
        "n": pa.uint8(),
        "time": pa.timestamp("s"),
        "bytes": pa.binary(3),
    }
)


def test_fields_are_found_inside_structs_and_lists():
  assert arrow.path_of(SCHEMA, "a.b") == ["a.b"]
  assert arrow.path_of(SCHEMA, "s.t.u") == ["s", "t", "u"]
  assert arrow.type_at(SCHEMA, ["s", "t", "u"]) == pa.string()
  for key in ("s.x", "n.x", "x", "s.t.u.v", ""):
    assert arrow.path_of(SCHEMA, key) is None


def test_values_are_followed_to_what_is_there():
  value = {"t": [{"u": "a"}, {"u": None}, None, {"u": "b"}]}
  assert arrow.follow(value, ["t", "u"]) == ["a", "b"]
  assert arrow.follow(None, ["t", "u"]) is None
  assert arrow.follow({"t": None}, ["t", "u"]) is None
  assert arrow.follow("x", []) == "x"


def test_kinds_of_columns_are_told_apart():
  kinds = {
      name: [
          test(SCHEMA.field(name).type)
          for test in (arrow.is_text, arrow.is_scalar, arrow.is_bytes)
      ]
      for name in SCHEMA.names
  }
  assert kinds == {
      "a.b": [True, True, False],
      "s": [False, False, False],
      "l": [True, False, False],
      "d": [True, True, False],
      "n": [False, True, False],
      "time": [False, False, False],
      "bytes": [False, False, True],
  }


@pytest.mark.parametrize(
    "values, type_, expected",
    [
        ([1, 2], pa.int64(), np.array([1, 2])),
        ([1, None], pa.int64(), np.array([1, np.nan])),
        ([True, False], pa.bool_(), np.array([True, False])),
        ([True, None], pa.bool_(), np.array([1, np.nan], np.float32)),
        (["a", None], pa.string(), np.array(["a", None], object)),
        ([None], pa.null(), np.array([None], object)),
    ],
)
def test_absent_numbers_are_nan_and_absent_texts_none(values, type_, expected):
  column = arrow.to_numpy(pa.chunked_array([pa.array(values, type_)]))
  np.testing.assert_array_equal(column, expected)
  assert column.dtype == expected.dtype


def test_dictionaries_are_texts():
  column = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()])
  assert arrow.to_numpy(column).tolist() == ["a", "b", "a"]


def test_without_pyarrow_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(UserError, match=r"pip install 'siglip_jax\[web\]'"):
    arrow.arrow()
