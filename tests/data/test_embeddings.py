"""The folder's format: what was written is read, and nothing else."""

import json
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest

from siglip_jax.data import embeddings
from siglip_jax.data import kinds
from siglip_jax.data import ops
from siglip_jax.data import sources
from siglip_jax.errors import UserError

MANIFEST = {
    "format": embeddings.FORMAT,
    "tower_digest": "0" * 64,
    "tower_sizes": {"width": 4},
    "image_size": 16,
    "image": "decode|resize(16)|value_range(-1,1)",
    "made_with": "decode|resize(16)|value_range(-1,1)",
    "crops": 2,
    "seed": 0,
    "data": {},
    "split": "train",
    "examples": 5,
    "shard_size": 3,
    "dtype": "bfloat16",
    "dim": 4,
    "tower_from": "nowhere",
    "counts": [2, 0, 2],
    "skipped": 1,
    "skipped_keys": ["1"],
}
KEYS = [0, 2, 3, 4]
Z = np.arange(32).reshape(4, 2, 4).astype(ml_dtypes.bfloat16)


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir()
  records = [
      embeddings.pack(
          key,
          Z[i],
          embeddings.pack_rest(
              {
                  "text": "日本 ☂",
                  "label": np.int64(key),
                  "image": b"bytes",
                  "box": np.zeros(4),
              }
          ),
      )
      for i, key in enumerate(KEYS)
  ]
  paths = embeddings.shard_paths(folder, 3)
  for path, part in zip(paths, (records[:2], [], records[2:]), strict=True):
    embeddings.write_shard(path, part)
  embeddings.write_json(folder / embeddings.MANIFEST, MANIFEST)
  return folder


def test_what_was_written_is_read(folder):
  made = kinds.make(embeddings=str(folder), split="train")
  assert isinstance(made, embeddings.Embeddings) and len(made) == 4
  for source in (made, pickle.loads(pickle.dumps(made))):
    for i, key in enumerate(KEYS):
      record = source[i]
      assert record.keys() == {"text", "label", "image"}
      assert record["text"] == "日本 ☂" and record["label"] == key
      assert record["image"].dtype == ml_dtypes.bfloat16
      np.testing.assert_array_equal(record["image"], Z[i])
      assert source.key(i) == f"{folder}[{key}]"
  np.testing.assert_array_equal(made.every(), Z[:, 0].astype(np.float32))
  assert made.every().dtype == np.float32


def test_the_keys_of_a_shard(folder):
  first, second, third = embeddings.shard_paths(folder, 3)
  assert embeddings.keys(first) == {0, 2} and embeddings.keys(third) == {3, 4}
  assert embeddings.count_records(second) == 0


def test_one_of_the_crops_is_drawn(folder):
  record = embeddings.Embeddings(folder)[1]
  drawn = {
      tuple(ops.pick_crop(record, np.random.default_rng(i))["image"])
      for i in range(20)
  }
  assert drawn == {tuple(Z[1, 0]), tuple(Z[1, 1])}
  once = record | {"image": record["image"][:1]}
  rng = np.random.default_rng(3)
  ops.pick_crop(once, rng)
  # Nothing is drawn where there is nothing to choose: the rest of the
  # preprocessing draws what it would with the image.
  assert rng.integers(2**60) == np.random.default_rng(3).integers(2**60)


def test_a_shard_that_cannot_be_written_leaves_no_file(tmp_path):
  def records():
    yield b"one"
    raise RuntimeError

  path = tmp_path / "embeddings-00000-of-00001.array_record"
  with pytest.raises(RuntimeError):
    embeddings.write_shard(path, records())
  assert not path.exists()


def damage_shard(folder, kept):
  path = embeddings.shard_paths(folder, 3)[2]
  path.write_bytes(path.read_bytes()[:kept])


def change(folder, **changes):
  text = json.dumps(MANIFEST | changes)
  (folder / embeddings.MANIFEST).write_text(text)


@pytest.mark.parametrize(
    "spoil, match",
    [
        (shutil.rmtree, "no folder of embeddings .* --out="),
        (lambda f: (f / "manifest.json").unlink(), "not finished: start"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not what this"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is not what this"),
        (lambda f: (f / "manifest.json").write_text("{}"), "'format'"),
        (lambda f: change(f, format="other"), "format is 'other'"),
        (lambda f: change(f, dtype="int8"), "is not what this version"),
        (lambda f: change(f, counts="many"), "counts is 'many'"),
        (lambda f: change(f, counts=[2, 0, 3]), "must hold 3 records"),
        (lambda f: change(f, counts=[2, 0, 2, 9]), "of-00004.* is missing"),
        (lambda f: damage_shard(f, 1000), "00002-of-00003.array_record is dam"),
        (lambda f: damage_shard(f, 0), "00002-of-00003.array_record is dam"),
        (lambda f: embeddings.shard_paths(f, 3)[0].unlink(), "is missing"),
        (
            lambda f: change(f, split="test"),
            "'train'; it holds those of 'test'",
        ),
    ],
)
def test_what_is_damaged_or_another_thing_is_named(folder, spoil, match):
  spoil(folder)
  with pytest.raises(UserError, match=match):
    embeddings.Embeddings(folder, "train")


def test_values_and_a_digest_need_no_embeddings(folder, monkeypatch):
  source = embeddings.Embeddings(folder)
  monkeypatch.setattr(embeddings, "_CHUNK", 3)
  monkeypatch.delattr(embeddings.Embeddings, "__getitem__")
  assert source.values("label") == KEYS
  assert source.values("text") == ["日本 ☂"] * 4
  assert source.values("image") is None
  first = source.digest()
  assert first == embeddings.Embeddings(folder).digest()
  change(folder, tower_digest="1" * 64)
  assert embeddings.Embeddings(folder).digest() != first


def test_lists_of_texts_are_kept(tmp_path):
  rest = embeddings.pack_rest({"captions": ["a", "é"], "boxes": [1, 2]})
  path = embeddings.shard_paths(tmp_path, 1)[0]
  embeddings.write_shard(path, [embeddings.pack(0, Z[0], rest)])
  embeddings.write_json(
      tmp_path / embeddings.MANIFEST, MANIFEST | {"counts": [1]}
  )
  source = embeddings.Embeddings(tmp_path)
  assert source[0].keys() == {"captions", "image"}
  assert source.values("captions") == [["a", "é"]]


def test_embeddings_of_one_image_know_it(folder, tmp_path):
  assert list(sources.image_ids(embeddings.Embeddings(folder))) == [0, 1, 2, 3]
  records = [
      embeddings.pack(i, Z[i], embeddings.pack_rest({"image_id": i // 2}))
      for i in range(4)
  ]
  embeddings.write_shard(embeddings.shard_paths(tmp_path, 1)[0], records)
  embeddings.write_json(
      tmp_path / embeddings.MANIFEST, MANIFEST | {"counts": [4]}
  )
  shared = embeddings.Embeddings(tmp_path)
  assert list(sources.image_ids(shared)) == [0, 0, 1, 1]
