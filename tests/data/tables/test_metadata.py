"""metadata.jsonl and metadata.csv in a folder of images."""

import fakes
import pytest

from siglip_jax.data import folders
from siglip_jax.data.tables import metadata
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)
CSV = 'file_name,text,more\ns/b.png,"two, too",1\na.png,one,2\n'
JSONL = (
    '{"file_name": "s/b.png", "text": "two, too", "n": 1}\n\n'
    '{"text": "one", "file_name": "a.png"}\n'
)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "s").mkdir()
  for name in ("a.png", "s/b.png"):
    (tmp_path / name).write_bytes(PIXEL)
  return tmp_path


@pytest.mark.parametrize("name, text", [("jsonl", JSONL), ("csv", CSV)])
def test_a_folder_with_metadata_is_read_as_it_is(folder, name, text):
  (folder / f"metadata.{name}").write_text(text)
  source = folders.folder_source(folder)
  assert source.values("text") == ["two, too", "one"]
  assert (
      source.key(0) == str(folder / "s/b.png") and source[1]["image"] == PIXEL
  )


def test_a_txt_beside_each_image_comes_first(folder):
  (folder / "metadata.jsonl").write_text(JSONL)
  (folder / "a.txt").write_text("from txt")
  with pytest.raises(UserError, match="b.png has no caption"):
    folders.folder_source(folder)
  (folder / "s/b.txt").write_text("too")
  source = folders.folder_source(folder)
  assert source.values("text") == ["from txt", "too"]


@pytest.mark.parametrize(
    "line, match",
    [
        (
            '{"file_name": "c.png", "text": "x"}',
            "line 2: the image 'c.png' is not",
        ),
        ('{"file_name": "../c.png", "text": "x"}', "line 2: .*outside"),
        ('{"file_name": "a.png"}', "line 2 must have the column 'text'"),
        ('{"file_name": "a.png", "text": ["x"]}', "line 2 must .*give table="),
        ('{"file_name": "", "text": "x"}', "line 2 must have texts"),
        ("[]", "line 2 must be an object"),
    ],
)
def test_bad_lines_are_named_by_number(folder, line, match):
  path = folder / "metadata.jsonl"
  path.write_text('{"file_name": "a.png", "text": "x"}\n' + line)
  with pytest.raises(UserError, match=match):
    metadata.read(path)
