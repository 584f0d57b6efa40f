"""Kinds of data: the one that is named is opened, with its own arguments."""

import pickle

import fakes
import numpy as np
import pytest
import web_files

from siglip_jax.data import kinds
from siglip_jax.data import sources
from siglip_jax.data.tars import build
from siglip_jax.errors import UserError


def test_missing_data_sets_are_named_by_path(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}/nothing.*Prepare it"):
    kinds.make(name="nothing", split="train", data_dir=tmp_path)
  with pytest.raises(UserError, match="siglip_jax.data.emoji"):
    kinds.make(name="emoji", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("both", [{}, {"name": "emoji", "path": "x"}])
def test_data_come_from_one_place(both):
  with pytest.raises(UserError, match="exactly one of `name`"):
    kinds.make(split="train", **both)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(path="s3://bucket/images"),
        dict(name="coco", data_dir="gs://bucket/tfds"),
        dict(embeddings="hf://datasets/me/mine"),
    ],
)
def test_urls_say_to_mount_or_copy(arguments):
  with pytest.raises(UserError, match="://.*. Mount the bucket, or copy"):
    kinds.make(split="train", **arguments)


def test_the_first_records_of_a_split(tmp_path):
  tars = web_files.tar(tmp_path / "0.tar", 200)
  whole = kinds.make(tars=tars, split="validation")
  some = kinds.make(tars=tars, split="validation[:3]")
  assert len(some) == 3 < len(whole) < 30
  assert [some.key(i) for i in range(3)] == [whole.key(i) for i in range(3)]
  assert len(kinds.make(tars=tars, split="validation[:1000]")) == len(whole)
  train = kinds.make(tars=tars)
  assert len(train) == 200 - len(whole)
  assert len({sources.digest(s) for s in (whole, some, train)}) == 3


def test_texts_are_drawn_by_weight(tmp_path):
  texts = {"txt": 0.3, "json:re": 0.7}
  source = kinds.make(
      tars=web_files.tar(tmp_path / "0.tar", 5), texts=texts, split="all"
  )
  assert source[3]["text"] == ["text 3", "re 3", "more 3"]
  rng = np.random.default_rng(0)
  drawn = [source.draw(source[3], rng)["text"] for _ in range(2000)]
  assert abs(np.mean([t == "text 3" for t in drawn]) - 0.3) < 0.05


def test_records_are_chosen_by_columns_and_lists(tmp_path):
  path = web_files.parquet(tmp_path / "0.parquet", 50)
  source = kinds.make(parquet=path, where="width >= 40", split="all")
  assert [source[i]["text"] for i in (0, 9)] == ["row 40", "row 49"]
  assert len(source) == 10
  np.save(tmp_path / "keys.npy", [41, 42])
  options = dict(where="width >= 40", uid="width", split="all")
  for key, count in (("only", 2), ("without", 8)):
    listed = kinds.make(
        parquet=path, **options, **{key: str(tmp_path / "keys.npy")}
    )
    assert len(listed) == count


def test_a_mixture_of_kinds(tmp_path):
  fakes.captioned_folder(tmp_path / "f", 20)
  (tmp_path / "tars").mkdir()
  rows = web_files.parquet(tmp_path / "p.parquet", 30)
  source = kinds.make(
      mix=[
          dict(weight=0.5, tars=web_files.tar(tmp_path / "tars" / "0.tar", 30)),
          dict(weight=0.3, parquet=rows),
          dict(weight=0.1, table=web_files.table(tmp_path, 4)),
          dict(weight=0.1, path=str(tmp_path / "f"), split="all"),
      ],
      split="all",
      cache_gb=1.5,
      order=dict(lanes=4, window=2),
  )
  assert source.names == ("tars", tmp_path.name, f"{tmp_path.name}_2", "f")
  assert source.blocks_options == {"cache_gb": 1.5}
  assert len(source) == 30 + 30 + 4 + 20
  rng = np.random.default_rng(0)
  texts = [source.draw(source[i], rng)["text"] for i in (29, 30, 60)]
  assert texts == ["text 29", "row 0", "line 0"]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(path="x", where="a > 1"),
            "take no 'where'.* belongs to tars and",
        ),
        (dict(name="x", cache_dir="y"), "take no 'cache_dir'"),
        (dict(mix=[dict(path="x")]), r"mix\[0\] must be a dict .* `weight`"),
        (dict(mix=[dict(weight=1, mix=[])]), r"mix\[0\] cannot have 'mix'"),
        (
            dict(mix=[dict(weight=1, embeddings="x")]),
            "cannot have 'embeddings'",
        ),
        (dict(mix=[dict(weight=1, path="x", order={})]), "cannot have 'order'"),
    ],
)
def test_arguments_of_other_kinds_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    kinds.make(**options)


@pytest.mark.parametrize(
    "place, title",
    [
        (dict(tars="gs://b/cc12m/{00000..01242}.tar"), "cc12m"),
        (dict(parquet="hf://datasets/x/y/data/train-*.parquet"), "y"),
        (dict(tars=["/data/laion/0.tar"]), "laion"),
        (dict(name="coco_captions"), "coco_captions"),
        (dict(path="/home/me/images/"), "images"),
        (dict(table="pairs.csv"), "pairs"),
    ],
)
def test_titles_come_from_places(place, title):
  assert kinds._title(place) == title


def _open_as(monkeypatch, records, texts):
  """Replaces data sets of TFDS by lists."""

  def opened(name, split, **_):
    del name
    source = fakes.ListSource(records(split))
    source.texts = texts
    return source

  monkeypatch.setattr(kinds, "tfds_source", opened)


def test_captions_of_tfds_are_found_by_their_usual_names(monkeypatch):
  record = {"image/filename": "f", "captions/text": ["a", "b"], "raw": "c"}
  names = {"image/filename", "captions/text", "raw"}
  _open_as(monkeypatch, lambda split: [record], names)
  source = kinds.make(name="coco_captions")
  assert source[0]["text"] == ["a", "b"]
  assert source.draw(source[0], np.random.default_rng(0))["text"] in "ab"
  assert kinds.make(name="coco", text="raw")[0]["text"] == "c"
  _open_as(monkeypatch, lambda split: [{"label": 3}], {"class"})
  assert kinds.make(name="imagenet")[0] == {"label": 3}


def test_texts_of_the_first_records_are_read_without_their_images(
    tmp_path, monkeypatch
):
  tars = web_files.tar(tmp_path / "0.tar", 200)
  some = kinds.make(tars=tars, split="validation[:3]")
  expected = [some[i]["text"] for i in range(3)]
  assert some.draw({"txt": "x"}, np.random.default_rng(0))["text"] == "x"
  monkeypatch.setattr(type(some), "__getitem__", None)
  assert sources.values(some, "text") == expected


def test_a_column_of_keys_needs_a_list(tmp_path):
  path = web_files.parquet(tmp_path / "0.parquet", 5)
  with pytest.raises(UserError, match="`uid` must come with `only`.*'width'"):
    kinds.make(parquet=path, uid="width")


def test_texts_may_be_pairs_and_are_checked(tmp_path):
  path = web_files.tar(tmp_path / "0.tar", 5)
  pairs = (("json:re", 1.0), ("txt", 2.0))
  source = kinds.make(tars=path, texts=pairs, split="all")
  assert source[0]["text"] == ["re 0", "more 0", "text 0"]
  for wrong in ([("txt",)], [("txt", 1, 2)]):
    with pytest.raises(UserError, match="`texts` must be|keys of `texts`"):
      kinds.make(tars=path, texts=wrong)


def test_an_index_that_is_made_again_ends_the_readers_of_the_old_one(tmp_path):
  for i in range(2):
    web_files.tar(tmp_path / f"{i}.tar", 5, start=5 * i)
  index = str(tmp_path / "index")
  build.build(str(tmp_path / "1.tar"), index, build.Options())
  source = kinds.make(tars=str(tmp_path / "1.tar"), index=index, split="all")
  sent = pickle.dumps(source)
  assert pickle.loads(sent)[0]["text"] == "text 5"
  build.build(str(tmp_path / "*.tar"), index, build.Options())
  with pytest.raises(UserError, match="must stay as it is during a run"):
    pickle.loads(sent)
