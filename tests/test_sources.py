"""TFDS data sets and folders as records by number."""

import io
import json
import os
import pickle
import shutil

import fakes
import pytest
import tensorflow_datasets as tfds

from siglip_jax.data import sources
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


class SourcesPets(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.2.0")

  def _info(self):
    picture = tfds.features.Image(shape=(4, 4, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {
                "image": picture,
                "mask": picture,
                "label": tfds.features.ClassLabel(num_classes=10),
                "names": {"en": tfds.features.Text()},
            }
        ),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(10):
      yield i, {
          "image": io.BytesIO(fakes.png((i, 0, 0), 4)),
          "mask": io.BytesIO(PIXEL),
          "label": i,
          "names": {"en": f"café {i}"},
      }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("tfds")
  tfds.disable_progress_bar()
  builder = SourcesPets(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare()
  return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
  return shutil.copytree(prepared, tmp_path / "data")


def pets(data_dir, split="train"):
  return sources.make(name="sources_pets", split=split, data_dir=data_dir)


def test_tfds_records_are_flat_with_pictures_encoded(prepared):
  source = pets(prepared)
  for i in range(len(source)):
    record = source[i]
    label = record["label"]
    assert record["image"] == fakes.png((label, 0, 0), 4)
    assert record["mask"] == PIXEL
    assert record["names/en"] == f"café {label}"
    assert set(record) == {"image", "mask", "label", "names/en"}


def test_parts_of_a_tfds_split_share_nothing(prepared):
  parts = [pets(prepared, s) for s in ("train[:80%]", "train[80%:]")]
  labels = [{s[i]["label"] for i in range(len(s))} for s in parts]
  assert [len(x) for x in labels] == [8, 2]
  assert labels[0] | labels[1] == set(range(10))


def test_a_tfds_source_reaches_a_worker_whole(prepared):
  source = pets(prepared, "train[2:4]")
  again = pickle.loads(pickle.dumps(source))
  assert again[1] == source[1] and len(again) == 2
  assert again.key(1) == "sources_pets/train[2:4][1]"


def test_the_newest_finished_version_is_read(data_dir):
  folder = data_dir / "sources_pets"
  for name in ("1.10.0", "incomplete.AB_2.0.0", "3.0.0.old"):
    shutil.copytree(folder / "1.2.0", folder / name)
  assert pets(data_dir).folder == str(folder / "1.10.0")


@pytest.mark.parametrize("split", ["test", "train[:x]", "train[20:]"])
def test_splits_that_are_not_there_are_named_with_those_that_are(
    prepared, split
):
  with pytest.raises(UserError, match=r"no split .*it has train\."):
    pets(prepared, split)


def test_data_prepared_without_random_access_say_how_to_prepare(data_dir):
  info = data_dir / "sources_pets" / "1.2.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="file_format='array_record'"):
    pets(data_dir)


def test_missing_data_sets_are_named_by_path(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}/nothing.*Prepare it"):
    sources.make(name="nothing", split="train", data_dir=tmp_path)


def folder_of(path, captions, pictures=("a.png",)):
  path.mkdir(exist_ok=True)
  for name in pictures:
    (path / name).write_bytes(PIXEL)
  (path / "captions.jsonl").write_bytes(captions)
  return path


def test_pictures_are_found_in_subfolders_in_order(tmp_path):
  for name in ("b/2.JPG", "a.webp", "b/10.png"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PIXEL)
    path.with_suffix(".txt").write_text(f" {name}\n")
  (tmp_path / "notes.md").write_text("no picture")
  (tmp_path / "folder.png").mkdir()
  source = sources.folder_source(tmp_path)
  texts = [source[i]["text"] for i in range(len(source))]
  assert texts == ["a.webp", "b/10.png", "b/2.JPG"]
  assert source.key(1) == str(tmp_path / "b/10.png")


def test_byte_order_marks_are_no_part_of_captions(tmp_path):
  (tmp_path / "a.png").write_bytes(PIXEL)
  (tmp_path / "a.txt").write_text("red", encoding="utf-8-sig")
  assert sources.folder_source(tmp_path)[0]["text"] == "red"
  line = json.dumps({"image": "a.png", "text": "blue"})
  folder_of(tmp_path, line.encode("utf-8-sig"))
  assert sources.folder_source(tmp_path)[0]["text"] == "blue"


@pytest.mark.parametrize(
    "line, match",
    [
        (b'{"image": "a.png", "text": "x"', "line 3 must be"),
        (b'["a.png", "x"]', "line 3 must be"),
        (b'{"image": "a.png", "text": 3}', "line 3 must be"),
        (b'{"image": ["a.png"], "text": ["x"]}', "line 3 must be"),
        (b'{"image": "a\\u0000.png", "text": "x"}', "line 3 must be"),
        (b'{"image": "a.png", "text": "\\ud800"}', "line 3 must be"),
        (b"[" * 100_000, "line 3 must be"),
        (b'{"image": "b.png", "text": "x"}', "line 3: there is no picture"),
        (b'{"image": "/etc/hosts", "text": "x"}', "line 3: .*outside"),
        (b'{"image": "x/../../g", "text": "x"}', "line 3: .*outside"),
    ],
)
def test_bad_lines_of_captions_are_named_by_number(tmp_path, line, match):
  good = b'{"image": "a.png", "text": "x"}\n\n'
  folder = folder_of(tmp_path / "f", good + line)
  with pytest.raises(UserError, match=match):
    sources.folder_source(folder)


def test_links_do_not_lead_out_of_the_folder(tmp_path):
  (tmp_path / "secret").write_bytes(b"x")
  folder = folder_of(tmp_path / "f", b'{"image": "link", "text": "x"}')
  (folder / "link").symlink_to(tmp_path / "secret")
  with pytest.raises(UserError, match="outside"):
    sources.folder_source(folder)


def test_file_names_that_are_not_utf8_are_read(tmp_path):
  for suffix, data in ((b".png", PIXEL), (b".txt", b"x")):
    with open(os.fsencode(tmp_path) + b"/caf\xe9" + suffix, "wb") as f:
      f.write(data)
  source = sources.folder_source(tmp_path)
  assert source[0] == {"image": PIXEL, "text": "x"}
  splits = []
  for split in ("train", "validation"):
    try:
      splits.append(len(sources.folder_source(tmp_path, split)))
    except UserError as e:
      assert "no picture in the split" in str(e)
  assert splits == [1]


def test_a_picture_keeps_its_split_when_others_come(tmp_path):
  lines = [
      json.dumps({"image": f"{i}.png", "text": "x"}).encode()
      for i in range(600)
  ]
  names = [f"{i}.png" for i in range(600)]
  some = folder_of(tmp_path, b"\n".join(lines[:300]), names)
  before = {p for p, _ in sources.folder_source(some, "validation").entries}
  more = folder_of(tmp_path, b"\n".join(lines[::-1]))
  after = {p for p, _ in sources.folder_source(more, "validation").entries}
  assert before == {p for p in after if int(p[:-4]) < 300}
  assert 15 <= len(after) <= 45  # 30 expected
  assert sorted(int(p[:-4]) for p in after)[:3] == [6, 33, 40]  # on any machine


def test_folders_have_three_splits(tmp_path):
  with pytest.raises(UserError, match="all, train or validation; got 'test'"):
    sources.make(path=str(tmp_path), split="test")


@pytest.mark.parametrize("both", [{}, {"name": "emoji", "path": "x"}])
def test_data_come_from_one_place(both):
  with pytest.raises(UserError, match="exactly one|either `name`"):
    sources.make(split="train", **both)
