"""Parquet files of images as a source: records, splits, blocks, refusals."""

import collections
from concurrent import futures
import pickle

import fakes
import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq
import pytest

from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables import groups
from siglip_jax.data.tables import parquet
from siglip_jax.data.tables.parquet import ParquetSource
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


def image(i):
  return PIXEL + bytes([i % 256, i // 256]) * (i % 5)


def table(first=0, count=20):
  """Rows as a set of the Hugging Face hub has them."""
  numbers = range(first, first + count)
  return pa.table(
      {
          "image": [{"bytes": image(i), "path": f"{i}.png"} for i in numbers],
          "text": [f"text {i}" for i in numbers],
          "captions": [[f"a {i}", f"b {i}"][: i % 3] for i in numbers],
          "label": list(numbers),
          "score": [None if i % 4 == 0 else i / 2 for i in numbers],
          "language": [None if i % 5 == 0 else "en" for i in numbers],
          "meta": [
              {"width": 10 * i, "raw": [{"t": f"m {i}"}]} for i in numbers
          ],
      }
  )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("parquet")
  for k in range(2):
    path = folder / f"train-0000{k}.parquet"
    pq.write_table(table(20 * k), path, row_group_size=8)
  return f"{folder}/train-*.parquet"


class Folder:
  """Blocks as files, which are there once they were fetched."""

  def __init__(self, path):
    self.path = path

  def wait(self, block):
    path = self.path / str(block)
    return path if path.exists() else None


def test_records_of_the_hub_are_read_as_they_are(files):
  source = ParquetSource(files, keep=("label", "meta.width"))
  assert len(source) == 40
  for i in (0, 7, 8, 19, 20, 39):
    assert source[i] == {
        "image": image(i),
        "text": f"text {i}",
        "label": i,
        "meta.width": 10 * i,
    }
  assert source.key(22).endswith("train-00001.parquet[2]")
  assert source.key(39).endswith("train-00001.parquet[19]")
  assert isinstance(source, sources.Source)


def test_files_of_img2dataset_have_other_columns(tmp_path):
  columns = {"jpg": [image(0), image(1)], "caption": ["x", "y"]}
  pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
  source = ParquetSource(str(tmp_path / "00000.parquet"))
  assert source[1]["image"] == image(1) and source[1]["text"] == "y"


def test_a_class_needs_no_text(tmp_path):
  columns = {"image": [image(0), image(1)], "label": [7, 3]}
  pq.write_table(pa.table(columns), tmp_path / "a.parquet")
  source = ParquetSource(str(tmp_path / "a.parquet"))
  assert source[1] == {"image": image(1)} and source.values("label") == [7, 3]
  assert source.draw(source[0], np.random.default_rng(0)) == source[0]


def test_one_of_several_texts_is_drawn_by_weight(files):
  weights = {"captions": 1.0, "meta.raw.t": 3.0, "text": 2.0}
  source = ParquetSource(files, texts=weights)
  record = source[8]
  assert record["text"] == ["a 8", "b 8", "m 8", "text 8"]
  rng = np.random.default_rng(0)
  draws = (source.draw(record, rng)["text"] for _ in range(600))
  counts = collections.Counter(draws)
  expected = {"a 8": 50, "b 8": 50, "m 8": 300, "text 8": 200}
  assert counts.keys() == expected.keys()
  assert all(abs(counts[t] - n) < 50 for t, n in expected.items())


def test_a_record_without_text_or_image_can_be_replaced(files, tmp_path):
  source = ParquetSource(files, text="captions")
  assert source[4]["text"] == ["a 4"]
  with pytest.raises(ImageError, match="no text under captions"):
    source[3]
  columns = {"image": [image(1), None], "text": ["a", "b"]}
  pq.write_table(pa.table(columns), tmp_path / "a.parquet")
  with pytest.raises(ImageError, match="'image' has no bytes"):
    ParquetSource(str(tmp_path / "a.parquet"))[1]


def test_splits_are_whole_and_known_without_reading(files):
  parts = {
      split: ParquetSource(files, split=split).values("label")
      for split in ("all", "train", "validation")
  }
  assert sorted(parts["train"] + parts["validation"]) == parts["all"]
  assert parts["validation"] == [6]  # on any machine
  one = ParquetSource(files.replace("*", "00000"), split="validation")
  assert one.values("label") == [6] and one[0]["text"] == "text 6"


def test_selected_rows_keep_their_places_in_blocks(files):
  select = np.zeros(40, bool)
  select[[1, 2, 7, 20, 39]] = True
  source = ParquetSource(files, select=select)
  assert source.values("text") == [f"text {i}" for i in (1, 2, 7, 20, 39)]
  assert [source[i]["text"] for i in range(5)] == source.values("text")
  assert source.block_starts.tolist() == [0, 3, 4, 5]  # groups without rows
  assert source.key(3).endswith("00001.parquet[0]")
  again = ParquetSource(files).selected(select)
  assert again.digest() == source.digest() != ParquetSource(files).digest()
  assert [again[i] for i in range(5)] == [source[i] for i in range(5)]


def test_blocks_are_row_groups_which_files_can_hold(files, tmp_path):
  select = np.arange(40) % 3 > 0
  source = ParquetSource(files, texts={"captions": 1, "text": 1}, select=select)
  expected = [source[i] for i in range(len(source))]
  assert len(source.block_starts) == 7
  assert source.block_bytes(0) > 8 * len(PIXEL)
  source.use_blocks(Folder(tmp_path))
  copy = pickle.loads(pickle.dumps(source))
  for block in (0, 2, 5):
    source.write_block(block, tmp_path / str(block))
  copy._memory = None  # must not be needed
  starts = source.block_starts
  for block in (0, 2, 5):
    for i in range(starts[block], starts[block + 1]):
      assert copy[i] == expected[i]
  (tmp_path / "0").unlink()
  assert source[0] == expected[0]


def test_a_block_that_is_deleted_meanwhile_is_read_from_its_file(
    files, tmp_path, monkeypatch
):
  source = ParquetSource(files)
  folder = Folder(tmp_path)
  monkeypatch.setattr(folder, "wait", lambda block: tmp_path / str(block))
  source.use_blocks(folder)
  assert source[30]["text"] == "text 30"


def test_a_file_of_a_block_is_gone_when_it_is_deleted(files, tmp_path):
  source = ParquetSource(files)
  source.use_blocks(Folder(tmp_path))
  source.write_block(0, tmp_path / "0")
  source[0]
  (tmp_path / "0").unlink()
  with pytest.raises(FileNotFoundError):
    source._files.row(0, tmp_path / "0", 0)


def test_many_threads_decode_a_row_group_once(files, monkeypatch):
  source = pickle.loads(pickle.dumps(ParquetSource(files)))
  reads = []
  tidy = groups.tidy
  monkeypatch.setattr(groups, "tidy", lambda *a: reads.append(1) or tidy(*a))
  with futures.ThreadPoolExecutor(8) as pool:
    texts = pool.map(lambda i: source[i % 8]["text"], range(200))
    assert list(texts) == [f"text {i % 8}" for i in range(200)]
  assert len(reads) == 1


def test_a_substitute_is_mostly_of_the_same_row_group(files):
  source = ParquetSource(files)
  rng = np.random.default_rng(0)
  places = np.array([source.substitute(9, rng) for _ in range(400)])
  assert 0.7 < np.mean((places >= 8) & (places < 16)) < 0.9
  assert set(places) > set(range(8, 16)) and places.max() > 30


def test_columns_and_values_are_of_the_records_alone(files):
  source = ParquetSource(files, select=np.arange(40) % 8 < 6)
  labels = [i for i in range(40) if i % 8 < 6]
  assert source.columns("label").tolist() == source.values("label") == labels
  assert source.columns("meta.width")[5:7].tolist() == [50, 80]
  scores = source.columns("score")[3:6]
  np.testing.assert_array_equal(scores, [1.5, np.nan, 2.5])
  assert source.columns("language")[4:7].tolist() == ["en", None, "en"]
  assert source.values("captions")[4:6] == [["a 4"], ["a 5", "b 5"]]
  assert source.values("image") is None and source.values("none") is None


def test_few_values_are_read_from_few_row_groups(files, monkeypatch):
  source = ParquetSource(files, texts={"captions": 1, "text": 1})
  read = []
  rows = type(source._footers)._rows
  monkeypatch.setattr(
      type(source._footers),
      "_rows",
      lambda self, file, name, groups, within: read.append((name, {*groups}))
      or rows(self, file, name, groups, within),
  )
  assert source.values_of("text", [39, 5, 39, 3]) == [
      ["text 39"],
      ["a 5", "b 5", "text 5"],
      ["text 39"],
      ["text 3"],
  ]
  assert read == [
      ("captions", {0}),
      ("captions", {5}),
      ("text", {0}),
      ("text", {5}),
  ]


def test_a_digest_differs_where_data_differ(files, tmp_path):
  whole = ParquetSource(files)
  assert ParquetSource(files, text="captions").digest() == whole.digest()
  path = tmp_path / "train-00000.parquet"
  pq.write_table(table(), path, row_group_size=8)
  one = ParquetSource(files.replace("*", "00000")).digest()
  assert ParquetSource(str(path)).digest() == one
  digests = {one, whole.digest(), ParquetSource(files, split="train").digest()}
  pq.write_table(table(), path, row_group_size=10)
  digests |= {ParquetSource(str(path)).digest()}
  pq.write_table(table().drop_columns("score"), path, row_group_size=8)
  digests |= {ParquetSource(str(path)).digest()}
  assert len(digests) == 5


def test_row_groups_that_are_too_large_are_refused_with_a_way(
    tmp_path, monkeypatch
):
  path = tmp_path / "a.parquet"
  pq.write_table(table(), path)
  size = ParquetSource(str(path)).block_bytes(0)
  monkeypatch.setattr(parquet, "_MOST", size - 1)
  with pytest.raises(UserError, match="row group 0 of .*a.parquet has") as e:
    ParquetSource(str(path))
  code = str(e.value).split("`")[1]
  for name, value in (("IN", str(path)), ("OUT", str(tmp_path / "b.parquet"))):
    code = code.replace(name, repr(value))
  exec(code, {})
  again = ParquetSource(str(tmp_path / "b.parquet"))
  assert len(again.block_starts) > 4 and again[19]["text"] == "text 19"


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(image="jpg"), "must have the column 'jpg' .* have image, text"),
        (dict(image="text"), "must hold their bytes.* 'text' is string"),
        (dict(text="title"), "the column 'title' .*have image, text"),
        (dict(text="label"), "texts or lists of texts; 'label' is int64"),
        (dict(text="meta"), "texts or lists of texts; 'meta' is struct"),
        (dict(keep=("captions",)), "'captions' is list"),
        (dict(split="test"), "all, train or validation; got 'test'"),
        (dict(select=np.ones(3, bool)), "of the 40 rows .*; got 3"),
        (dict(select=np.zeros(40, bool)), "At least one row .* of 40 in 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(files, arguments, match):
  with pytest.raises(UserError, match=match):
    ParquetSource(files, **arguments)


def test_a_row_group_that_is_damaged_is_told(files, tmp_path):
  path = tmp_path / "a.parquet"
  pq.write_table(table(), path, row_group_size=8)
  source = ParquetSource(str(path))
  chunk = pq.read_metadata(path).row_group(1).column(0)
  data = bytearray(path.read_bytes())
  start = chunk.dictionary_page_offset or chunk.data_page_offset
  data[start : start + 20] = b"\xff" * 20
  path.write_bytes(data)
  assert source[0]["text"] == "text 0"
  with pytest.raises(ImageError, match="a.parquet cannot be decoded"):
    source[8]
  with pytest.raises(UserError, match="must be readable; .*row group 1"):
    source.write_block(1, tmp_path / "1")
