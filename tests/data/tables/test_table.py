"""Tables of images and texts as a source."""

import json
import pickle

import fakes
import numpy as np
import pytest

from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables.table import TableSource
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


@pytest.fixture
def folder(tmp_path):
  for name in ("a.jpg", "s/b.png", "c"):
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PIXEL + name.encode())
  return tmp_path


def csv(folder, *rows, name="t.csv", header="filepath\ttitle"):
  path = folder / name
  path.write_text("\n".join([header, *rows]) + "\n")
  return path


def test_a_csv_of_open_clip_is_read_as_it_is(folder):
  absolute = folder / "images/s/b.png"
  path = csv(folder, "images/a.jpg\tone, 1", f"{absolute}\ttwo", "images/c\t3")
  source = pickle.loads(pickle.dumps(TableSource(path)))
  assert len(source) == 3 and isinstance(source, sources.Source)
  assert source[0] == {
      "image": PIXEL + b"a.jpg",
      "title": "one, 1",
      "text": "one, 1",
  }
  assert source[1]["image"] == PIXEL + b"s/b.png"
  assert source.key(1) == str(absolute)
  assert (
      source.values("text") == source.values("title") == ["one, 1", "two", "3"]
  )
  assert source.values("image") is None


def test_columns_have_any_names_and_paths_any_root(folder):
  rows = ["x,../images/a.jpg", "y,../images/c"]
  (folder / "lists").mkdir()
  path = csv(folder / "lists", *rows, header="caption;en,place of image")
  options = dict(image="place of image", text="caption;en")
  assert TableSource(path, **options).values("text") == ["x", "y"]
  path = csv(folder / "lists", "x,a.jpg", header="text,file_name")
  source = TableSource(path, root=folder / "images")
  assert source[0]["image"] == PIXEL + b"a.jpg"


def test_several_texts_are_drawn_and_rows_without_any_left_out(folder, caplog):
  entries = [
      {"image": "images/a.jpg", "text": ["a", "", "b"], "alt": None, "n": 1},
      {"image": "images/c", "text": [], "alt": " ", "n": 2},
      {"image": "images/a.jpg", "text": "", "alt": "d", "n": 3},
  ]
  path = folder / "t.jsonl"
  path.write_text("\n".join(map(json.dumps, entries)))
  source = TableSource(path, texts={"text": 1.0, "alt": 1.0})
  assert source.values("text") == [["a", "b"], ["d"]]
  assert "1 of 3 rows have no text" in caplog.text
  assert source.values("n") == [1, 3] and source.columns("n").tolist() == [1, 3]
  rng = np.random.default_rng(0)
  draws = [source.draw(source[0], rng)["text"] for _ in range(100)]
  assert 30 < draws.count("a") < 70 and set(draws) == {"a", "b"}
  assert source.image_ids() == ["images/a.jpg"] * 2


def test_splits_go_by_the_image_and_selections_by_the_row(folder):
  for i in range(60):
    (folder / f"{i}.png").write_bytes(PIXEL)
  rows = [f"{i % 60}.png\ttext {i}" for i in range(120)]
  source = TableSource(csv(folder, *rows))
  parts = {
      split: TableSource(source.path, split=split).values("text")
      for split in ("all", "train", "validation")
  }
  assert sorted(parts["train"] + parts["validation"]) == sorted(parts["all"])
  held_out = {int(text[5:]) % 60 for text in parts["validation"]}
  assert len(parts["validation"]) == 2 * len(held_out) > 0
  select = np.arange(120) % 7 == 0
  some = TableSource(source.path, select=select)
  assert some.values("text") == [f"text {i}" for i in range(0, 120, 7)]
  assert some[3]["text"] == "text 21" and some.key(3).endswith("21.png")
  digests = {
      s.digest()
      for s in (source, some, TableSource(source.path, split="train"))
  }
  other = csv(folder, *rows[:-1], rows[-1] + ".", name="other.csv")
  digests.add(TableSource(other).digest())
  assert len(digests) == 4 and some.digest() == source.selected(select).digest()


@pytest.mark.parametrize(
    "values, expected",
    [
        (["1", "-2", "3"], np.array([1, -2, 3])),
        (["1", "", "2.5"], np.array([1, np.nan, 2.5])),
        (["01", "02", "3"], np.array(["01", "02", "3"], object)),
        (["0", "0.5", "1e3"], np.array([0, 0.5, 1000])),
        (["en", "", "de"], np.array(["en", None, "de"], object)),
        ([2**60 + 1, 5, 3], np.array([2**60 + 1, 5, 3])),
        ([1, None, 0.5], np.array([1, np.nan, 0.5])),
        ([2**60 + 1, None], np.array([2**60 + 1, None], object)),
    ],
)
def test_columns_become_numbers_if_all_values_are(folder, values, expected):
  lines = [
      json.dumps({"image": "images/c", "text": "x", "v": v}) for v in values
  ]
  (folder / "t.jsonl").write_text("\n".join(lines))
  column = TableSource(folder / "t.jsonl").columns("v")
  np.testing.assert_array_equal(column, expected)
  assert column.dtype == expected.dtype


@pytest.mark.parametrize(
    "row, match",
    [
        ("https://x/y.jpg\tz", "line 3 must name a file .* got the URL"),
        ("\tz", "line 3 must name an image; got ''"),
        ("images/d.png\tz", "line 3: there is no image 'images/d.png' in"),
        ("/none/d.png\tz", "line 3: there is no image '/none/d.png'"),
        ("images\tz", "line 3: there is no image 'images'"),
        ("images/a.jpg\tz\tz", "line 3 must have 2 values"),
    ],
)
def test_bad_rows_are_named_by_line(folder, row, match):
  path = csv(folder, "images/a.jpg\tx", row)
  with pytest.raises(UserError, match=match):
    TableSource(path)


def test_what_does_not_fit_is_refused(folder):
  path = csv(folder, "images/a.jpg\tx")
  for options, match in (
      (dict(split="test"), "all, train or validation; got 'test'"),
      (dict(select=np.ones(2, bool)), "of the 1 rows .* got 2"),
      (dict(select=np.zeros(1, bool)), "At least one row"),
      (
          dict(text="caption"),
          "must have the column 'caption'; it has 'filepath'",
      ),
  ):
    with pytest.raises(UserError, match=match):
      TableSource(path, **options)
  with pytest.raises(
      UserError, match="'filepath or image or .*; it has 'x', 'y'"
  ):
    TableSource(csv(folder, "1,2", header="x,y"))
  with pytest.raises(UserError, match="is a file of this machine"):
    TableSource("s3://bucket/t.csv")
  bad = folder / "t.jsonl"
  bad.write_text('{"image": "images/c", "text": 3}')
  with pytest.raises(
      UserError, match="line 1: 'text' must be a text or a list"
  ):
    TableSource(bad)


def test_an_image_that_is_gone_can_be_replaced(folder):
  source = TableSource(csv(folder, "images/a.jpg\tx"))
  (folder / "images/a.jpg").unlink()
  with pytest.raises(ImageError, match="No such file"):
    source[0]
