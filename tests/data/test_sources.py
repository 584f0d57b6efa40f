"""TFDS data sets as records by number; which source is asked for."""

import io
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
    image = tfds.features.Image(shape=(4, 4, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {
                "image": image,
                "mask": image,
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


def test_tfds_records_are_flat_with_images_encoded(prepared):
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
  with pytest.raises(UserError, match="siglip_jax.data.emoji"):
    sources.make(name="emoji", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("both", [{}, {"name": "emoji", "path": "x"}])
def test_data_come_from_one_place(both):
  with pytest.raises(UserError, match="exactly one|either `name`"):
    sources.make(split="train", **both)
