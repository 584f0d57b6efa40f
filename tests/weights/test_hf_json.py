"""JSON files of transformers' folders: an object, or an error with a name."""

import pytest

from siglip_jax.errors import UserError
from siglip_jax.weights import hf_json


def test_a_missing_file_is_the_default_or_named(tmp_path):
  path, default = tmp_path / "a.json", {"a": 1}
  found = hf_json.read(path, default=default)
  found["b"] = 2  # a copy
  assert default == {"a": 1}
  with pytest.raises(UserError, match="There is no .*a.json: expected a f"):
    hf_json.read(path)


def test_a_file_that_is_there_is_read_whatever_the_default(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"a": [1, null]}')
  assert hf_json.read(path, default={"b": 1}) == {"a": [1, None]}
  path.write_text("{")
  with pytest.raises(UserError, match="a.json is .*JSON, or damaged"):
    hf_json.read(path, default={"b": 1})


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "a.json is .*JSON, or damaged"),
        (b'{"a": "\xe9"}', "a.json is .*JSON, or damaged: .*utf-8"),
        (b"[" * 200_000, "a.json is .*JSON, or damaged"),
        (b'["a"]', r"must hold a JSON object; got \['a'\]"),
        (b"null", "must hold a JSON object; got None"),
    ],
)
def test_what_is_no_object_is_named(tmp_path, content, match):
  path = tmp_path / "a.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=match):
    hf_json.read(path)


def test_an_error_shows_no_more_than_the_start_of_a_long_value(tmp_path):
  path = tmp_path / "a.json"
  path.write_text(f'["{"x" * 10_000}"]')
  with pytest.raises(UserError) as e:
    hf_json.read(path)
  assert str(e.value).count("x") < 80
