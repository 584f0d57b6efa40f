"""Rows of CSV, TSV and JSON lines, with the numbers of their lines."""

import json
import os

import pytest

from siglip_jax.data.tables import lines
from siglip_jax.errors import UserError


def rows(path, content, columns=("a", "b"), **options):
  if isinstance(content, str):
    content = content.encode()
  path.write_bytes(content)
  return list(lines.rows(path, columns, **options))


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.csv", "b,c,a\n2,x,1\n\n4,y,3\n"),
        ("t.csv", "\ufeffb\tc, c\ta\r\n2\tx\t1\r\n\r\n4\ty\t3"),
        ("t.tsv", "b\tc\ta\n2\tx\t1\n\n4\ty\t3\n"),
        ("t.txt", 'b|"c"|a\n2|x|1\n\n4|"y"|3\n'),
        ("t.CSV", "b;c,d;a\n2;x;1\n\n4;y;3\n"),
        ("t.csv", "b\tx,y;z,u,v\ta\n2\tx\t1\n\n4\ty\t3\n"),
        ("t.jsonl", '{"b": "2", "a": "1"}\n\n{"a": "3", "b": "4", "c": []}\n'),
    ],
)
def test_columns_are_found_by_name_whatever_separates_them(
    tmp_path, name, content
):
  path = tmp_path / name
  assert rows(path, content) == [
      (2 - (path.suffix == ".jsonl"), ["1", "2"])
  ] + [(4 - (path.suffix == ".jsonl"), ["3", "4"])]


def test_quoted_values_may_hold_anything(tmp_path):
  content = 'a,b\n"x, ""y""","one\ntwo\n"\nz,w\n'
  assert rows(tmp_path / "t.csv", content) == [
      (2, ['x, "y"', "one\ntwo\n"]),
      (5, ["z", "w"]),
  ]


def test_a_separator_may_be_given(tmp_path):
  path = tmp_path / "t.csv"
  assert rows(path, "a:b,c\n1:2,3\n", ("a", "b,c"), sep=":") == [
      (2, ["1", "2,3"])
  ]
  assert lines.names(path, ":") == ["a", "b,c"]
  assert lines.names(path) == ["a:b", "c"]
  with pytest.raises(UserError, match="`sep` must be one character"):
    list(lines.rows(path, ("a",), "::"))


def test_lists_come_from_json_lines_alone(tmp_path):
  entry = {"a": ["x", None], "b": 3}
  assert rows(tmp_path / "t.jsonl", json.dumps(entry)) == [
      (1, [["x", None], 3])
  ]
  assert lines.names(tmp_path / "t.jsonl") == ["a", "b"]


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("t.csv", "a,b\n1,2\n1,2,3\n", "line 3 must have 2 values.* it has 3"),
        ("t.csv", "a,b\n1,2\n1\n", "line 3 must have 2 values.* it has 1"),
        ("t.csv", "a,c\n1,2\n", "the column 'b'; it has 'a', 'c'"),
        ("t.csv", "a,b,b\n1,2,3\n", "one column 'b'; its first line has 2"),
        ("t.csv", "", "the column 'a'; it has no columns"),
        ("t.csv", b"a,b\n1,2\n\xe9,2\n", "line 3 is not, at byte 0"),
        ("t.csv", b"\xe9,b\n1,2\n", "UTF-8"),
        (
            "t.csv",
            'a,b\n1,2\n1,"' + "x\n" * 90_000,
            "line 3 cannot be read: .*field",
        ),
        (
            "t.jsonl",
            '{"a": 1, "b": 2}\n{"a": 1}',
            "line 2 must have the column 'b'",
        ),
        ("t.jsonl", "[1]", "line 1 must be an object"),
        ("t.jsonl", "[" * 100_000, "line 1 must be an object"),
        ("t.jsonl", '{"a": "\\ud800", "b": 1}', "line 1 must be an object"),
        ("t.parquet", "", "must be a .csv.* files that hold images are given"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, name, content, match):
  with pytest.raises(UserError, match=match):
    rows(tmp_path / name, content)


def test_what_is_not_a_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "t.csv")
  for path in (tmp_path / "t.csv", tmp_path / "none.csv"):
    with pytest.raises(UserError, match="must be a file|No such file"):
      lines.names(path)
