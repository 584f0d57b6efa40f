"""What differs between two configs, said field by field."""

import pytest

from siglip_jax.config.changes import changes


@pytest.mark.parametrize(
    "before, after, lines",
    [
        ({"a": 1}, {"a": 1}, []),
        ({"o": {"lr": 0.001}}, {"o": {"lr": 0.01}}, ["o.lr = 0.01, was 0.001"]),
        ({"n": "x"}, {"n": "y"}, ["n = 'y', was 'x'"]),
        # JSON has no tuples.
        ({"r": [[".*", None]]}, {"r": [(".*", None)]}, []),
        (
            {"r": [["a", 1]]},
            {"r": [("b", 1)]},
            ["r = [['b', 1]], was [['a', 1]]"],
        ),
        # Fields that only one of them has, nested ones and empty sections too.
        ({}, {"i": {"p": "w"}}, ["i.p = 'w', was unset"]),
        ({"i": {"p": "w"}, "k": 1}, {"k": 1}, ["i.p = unset, was 'w'"]),
        (
            {"e": {}},
            {"e": {"x": 1}},
            ["e.x = 1, was unset", "e = unset, was {}"],
        ),
        ({"b": True}, {"b": 1}, ["b = 1, was True"]),
        ({"x": 1.0}, {"x": 1}, ["x = 1, was 1.0"]),
    ],
)
def test_each_changed_field_is_a_line(before, after, lines):
  assert [str(c) for c in changes(before, after)] == lines


def test_they_come_in_the_order_of_the_later_config():
  before = {"a": 1, "b": 1, "c": 1}
  after = {"c": 2, "b": 1, "a": 2}
  assert [c.field for c in changes(before, after)] == ["c", "a"]
