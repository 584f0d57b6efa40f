"""Keys of texts, and the values that parts of a sample have under them."""

import pytest

from siglip_jax.data.images import ImageError
from siglip_jax.data.tars import members
from siglip_jax.errors import UserError

PARTS = {
    "txt": "\ufeff a cat \n".encode(),
    "lines.txt": b"one\n\n two \r\nthree",
    "json": b'{"caption": "c", "all": ["a", "b"], "x": {"y": "deep"}}',
    "meta.json": b'{"caption": "m"}',
    "cls": b"7\n",
}


@pytest.mark.parametrize(
    "name, value",
    [
        ("txt", "a cat"),
        ("lines.txt:lines", ["one", "two", "three"]),
        ("json:caption", "c"),
        ("json:all", ["a", "b"]),
        ("json:x.y", "deep"),
        ("json:nothing", None),
        ("meta.json:caption", "m"),
        ("caption", None),
    ],
)
def test_a_key_says_where_its_value_is(name, value):
  assert members.Key.of(name).value(PARTS) == value


@pytest.mark.parametrize("name", ["", "json", "json:", "txt:", "txt:x", ":a"])
def test_what_is_not_a_key_is_refused(name):
  with pytest.raises(UserError, match="must be a member's suffix, as 'txt'"):
    members.Key.of(name)


def test_a_label_is_a_number():
  assert members.label(PARTS) == 7
  assert members.label({}) is None
  with pytest.raises(ImageError, match="its .cls must be a whole number"):
    members.label({"cls": b"cat"})


@pytest.mark.parametrize(
    "name, parts, message",
    [
        ("txt", {"txt": b"a\xff"}, "its .txt is not UTF-8, at byte 1"),
        ("json:a", {"json": b"{"}, "its .json is not a JSON object"),
        ("json:a", {"json": b"[1]"}, "its .json is not a JSON object"),
        ("json:a", {"json": b"[" * 100_000}, "is not a JSON object"),
    ],
)
def test_a_member_that_cannot_be_read_is_named(name, parts, message):
  with pytest.raises(ImageError, match=message):
    members.Key.of(name).value(parts)
