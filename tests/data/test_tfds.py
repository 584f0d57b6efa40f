"""TFDS data sets as records by number."""

import io
import pickle
import shutil

import fakes
import numpy as np
import pytest
import tensorflow_datasets as tfds

from siglip_jax.data import tfds as tfds_lib
from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError

PIXEL = fakes.png((1, 2, 3), 4)


class TfdsPets(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.2.0")

  def _info(self):
    image = tfds.features.Image(shape=(4, 4, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {
                "image": image,
                "mask": image,
                "label": tfds.features.ClassLabel(num_classes=10),
                "names": {"en": tfds.features.Text()},
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "raw": tfds.features.Tensor(shape=(), dtype=np.str_),
            }
        ),
    )

  def _split_generators(self, dl_manager):
    return {
        "train": self._generate_examples(10, "é".encode()),
        "latin": self._generate_examples(1, b"\xe9"),
    }

  def _generate_examples(self, count, accent):
    for i in range(count):
      yield i, {
          "image": io.BytesIO(fakes.png((i, 0, 0), 4)),
          "mask": io.BytesIO(PIXEL),
          "label": i,
          "names": {"en": b"caf" + accent + f" {i}".encode()},
          "captions": [f"é {k}" for k in range(i)],
          "raw": b"\xff" if i else b"word",
      }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("tfds")
  tfds.disable_progress_bar()
  builder = TfdsPets(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare()
  return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
  return shutil.copytree(prepared, tmp_path / "data")


def pets(data_dir, split="train"):
  return tfds_lib.tfds_source("tfds_pets", split, data_dir=data_dir)


def test_tfds_records_are_flat_with_images_encoded(prepared):
  source = pets(prepared)
  for i in range(len(source)):
    record = source[i]
    label = record["label"]
    assert record["image"] == fakes.png((label, 0, 0), 4)
    assert record["mask"] == PIXEL
    assert record["names/en"] == f"café {label}"
    assert record["captions"] == [f"é {k}" for k in range(label)]
    assert record["raw"] == (b"\xff" if label else "word")
    assert len(record) == 6


def test_parts_of_a_tfds_split_share_nothing(prepared):
  parts = [pets(prepared, s) for s in ("train[:80%]", "train[80%:]")]
  labels = [{s[i]["label"] for i in range(len(s))} for s in parts]
  assert [len(x) for x in labels] == [8, 2]
  assert labels[0] | labels[1] == set(range(10))


def test_a_tfds_source_reaches_a_worker_whole(prepared):
  source = pets(prepared, "train[2:4]")
  again = pickle.loads(pickle.dumps(source))
  assert again[1] == source[1] and len(again) == 2
  assert again.key(1) == "tfds_pets/train[2:4][1]"


def test_the_newest_finished_version_is_read(data_dir):
  folder = data_dir / "tfds_pets"
  for name in ("1.10.0", "incomplete.AB_2.0.0", "3.0.0.old"):
    shutil.copytree(folder / "1.2.0", folder / name)
  assert pets(data_dir).folder == str(folder / "1.10.0")


@pytest.mark.parametrize("split", ["test", "train[:x]", "train[20:]"])
def test_splits_that_are_not_there_are_named_with_those_that_are(
    prepared, split
):
  with pytest.raises(UserError, match=r"no split .*it has train, latin\."):
    pets(prepared, split)


def test_data_prepared_without_random_access_say_how_to_prepare(data_dir):
  info = data_dir / "tfds_pets" / "1.2.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="file_format='array_record'"):
    pets(data_dir)


@pytest.mark.parametrize("key", ["label", "names/en", "captions", "raw"])
def test_values_are_those_of_the_records(prepared, key, monkeypatch):
  source = pets(prepared, "train[2:]")
  expected = [source[i][key] for i in range(8)]
  monkeypatch.setattr(tfds_lib, "_CHUNK", 3)
  monkeypatch.delattr(tfds_lib.TfdsSource, "__getitem__")
  assert source.values(key) == expected


def test_values_parse_nothing_else(prepared, monkeypatch):
  images = []
  monkeypatch.setattr(
      tfds.features.Image,
      "decode_example_np",
      lambda self, example: images.append(example),
  )
  pets(prepared).values("label")
  assert not images


@pytest.mark.parametrize("key", ["image", "name", "names/fr"])
def test_values_of_images_or_of_nothing_are_left_to_the_records(prepared, key):
  assert pets(prepared).values(key) is None


def test_a_text_that_is_not_utf8_is_named(prepared):
  source = pets(prepared, "latin")
  match = r"'names/en' of tfds_pets/latin\[0\] is not, at byte 3"
  for read in (lambda: source[0], lambda: source.values("names/en")):
    with pytest.raises(UserError, match=match):
      read()


def shard(data_dir):
  (path,) = (data_dir / "tfds_pets" / "1.2.0").glob("*-train.array_record*")
  return path


def cut(path):
  path.write_bytes(path.read_bytes()[:-70_000])


def cut_json(path):
  path.write_text(path.read_text()[:100])


@pytest.mark.parametrize(
    "spoil, match",
    [
        (
            lambda d: shard(d).unlink(),
            "train.array_record.* 10 records.*no such",
        ),
        (lambda d: cut(shard(d)), "train.array_record.* must hold 10 records"),
        (lambda d: shard(d).write_bytes(b""), "train.array_record.*at least"),
        (
            lambda d: cut_json(shard(d).parent / "dataset_info.json"),
            "1.2.0 must be a data set .*ParseError",
        ),
        (
            lambda d: cut_json(shard(d).parent / "features.json"),
            "1.2.0 must be a data set .*JSON",
        ),
    ],
)
def test_damaged_data_sets_are_refused_at_the_start(data_dir, spoil, match):
  spoil(data_dir)
  with pytest.raises(UserError, match=match) as e:
    pets(data_dir)
  assert "\n" not in str(e.value)


def test_a_damaged_record_is_an_unreadable_example(data_dir):
  content = bytearray(shard(data_dir).read_bytes())
  # Within the first record, and not in the index at the end.
  start = content.index(b"PNG")
  content[start : start + 8] = bytes(8)
  shard(data_dir).write_bytes(content)
  source = pets(data_dir)
  bad = []
  for i in range(10):
    try:
      source[i]
    except ImageError:
      bad.append(i)
  assert len(bad) == 1
  with pytest.raises(UserError, match=rf"train\[{bad[0]}\] cannot be read"):
    source.values("label")


def test_the_digest_tells_apart_files_and_splits(data_dir, prepared):
  same = {pets(d).digest() for d in (data_dir, prepared)}
  assert len(same) == 1
  other = shard(data_dir).with_name("tfds_pets-latin.array_record-more")
  other.write_bytes(b"x")
  digests = {pets(data_dir).digest(), pets(prepared, "train[:5]").digest()}
  assert len(same | digests) == 3


@pytest.mark.parametrize("count, expected", [(9, 9), (10, 10), (5000, 10)])
def test_a_split_may_hold_fewer_records_than_asked_for(
    prepared, count, expected
):
  assert len(pets(prepared, f"train[:{count}]")) == expected
