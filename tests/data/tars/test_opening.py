"""What a config says of tars, and what it says wrongly."""

import hand_tars
from hand_tars import END
from hand_tars import member
import numpy as np
import pytest

from siglip_jax.data.images import ImageError
from siglip_jax.data.tars.opening import tar_source
from siglip_jax.errors import UserError


@pytest.fixture
def tar(tmp_path):
  path = tmp_path / "0.tar"
  path.write_bytes(hand_tars.tar(*range(9)))
  return str(path)


WRONG = {
    "split": (dict(split="test"), "all, train, validation; got 'test'"),
    "block_mb": (dict(block_mb=0), "megabytes from 1; got 0"),
    "image": (dict(image=";"), "must be given as 'jpg;png'"),
    "both": (dict(text="txt", texts={"txt": 1}), "either `text`"),
    "weight": (dict(texts={"txt": 0}), "a positive weight"),
    "a JSON without a field": (dict(text="json"), "'json:caption' for a field"),
    "no such text": (
        dict(text="caption"),
        r"a text .caption.; the tars have 9 of jpg json txt. Name another",
    ),
    "no such image": (
        dict(image="gif"),
        "end in gif; got the suffixes jpg .9., json .9., txt .9.",
    ),
    "nothing selected": (
        dict(select=np.zeros(9, bool)),
        "of 9 with an image, none is left",
    ),
    "select": (dict(select=np.ones(5, bool)), "for each of 9 samples"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_argument_is_named(kind, tar):
  options, message = WRONG[kind]
  with pytest.raises(UserError, match=message):
    tar_source(tar, **options)


def test_images_must_be_those_of_the_index(tar, tmp_path):
  from siglip_jax.data.tars import build

  options = build.Options(image=("jpg", "png"))
  build.build(tar, str(tmp_path / "index"), options, workers=1)
  assert len(tar_source(tar, image="png;jpg")) == 9
  with pytest.raises(
      UserError, match="made with, jpg, png; got gif, jpg. Make"
  ):
    tar_source(tar, image="gif;jpg")


def test_a_text_is_needed_unless_there_are_labels_alone(tmp_path):
  path = tmp_path / "a.tar"
  path.write_bytes(member("a.jpg") + member("b.jpg") + member("b.cls", b"1"))
  assert len(tar_source(str(path))) == 1
  path.write_bytes(member("a.jpg") + member("a.json", b"{}") + END)
  with pytest.raises(UserError, match="a text .txt.; the tars have 1 of jpg j"):
    tar_source(str(path))
  with pytest.raises(ImageError, match="it has no text under json:caption"):
    tar_source(str(path), text="json:caption")[0]
