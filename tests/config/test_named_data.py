"""The data that a config file's arguments name become sections."""

import pytest

from siglip_jax.config import named_data
from siglip_jax.config import parse_arg
from siglip_jax.errors import UserError

DEFAULT = dict(name="captions", data_dir="tfds")


def _sections(arg=None):
  arg = parse_arg(arg, **named_data.ARGS)
  return named_data.sections(arg, default=DEFAULT)


def test_without_arguments_they_are_the_configs_own():
  train, retrieval = _sections()
  assert train == DEFAULT | {"split": "train"}
  assert retrieval == DEFAULT | {"split": "validation[:5000]"}


def test_tars_have_an_index_and_members():
  train, retrieval = _sections(
      "tars=gs://b/{000..331}.tar,index=gs://b/i,image=jpg,text=json:caption"
  )
  place = dict(tars="gs://b/{000..331}.tar", index="gs://b/i", image="jpg")
  assert train == place | {"split": "train", "text": "json:caption"}
  # `text` of a retrieval is the key of a record, not of a tar.
  assert retrieval["texts"] == (("json:caption", 1.0),)
  assert "text" not in retrieval
  assert retrieval["leave_out_unreadable"]


def test_a_data_set_of_tfds_may_lie_elsewhere():
  train, _ = _sections("name=coco_captions,data_dir=x,train_split=train[:9]")
  assert train == dict(name="coco_captions", data_dir="x", split="train[:9]")
  assert _sections("name=coco_captions")[0]["data_dir"] == "tfds"
  assert "data_dir" not in _sections("path=images")[0]


def test_there_is_one_kind_of_data():
  with pytest.raises(UserError, match="At most one of tars=.*got tars=a and"):
    _sections("tars=a,parquet=b")
