"""A folder searched by text."""

import fakes
import numpy as np
import pytest

import siglip_jax
from siglip_jax.demo import album
from siglip_jax.errors import UserError


@pytest.fixture(scope="module")
def model(trained):
  return siglip_jax.load(trained)


def test_the_nearest_images_come_first(model, place):
  found = album.make(model, place / "images")
  assert len(found.paths) == 48
  best = found.search("a red image", 5)
  cosine = (
      model.encode_image(found.paths) @ model.encode_text(["a red image"])[0]
  )
  order = np.argsort(-cosine, kind="stable")[:5]
  assert [p for p, _ in best] == [found.paths[i] for i in order]
  chances = [x for _, x in best]
  assert chances == sorted(chances, reverse=True)
  expected = model.similarity([best[0][0]], ["a red image"])[0, 0]
  assert chances[0] == pytest.approx(expected, rel=1e-4)


def test_mistakes_are_named(model, tmp_path, caplog):
  with pytest.raises(UserError, match="no folder .*gone"):
    album.make(model, tmp_path / "gone")
  (tmp_path / "notes.txt").write_text("no image")
  with pytest.raises(UserError, match="has no images"):
    album.make(model, tmp_path)
  (tmp_path / "deep").mkdir()
  (tmp_path / "deep" / "good.PNG").write_bytes(fakes.png((1, 2, 3)))
  (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no more")
  found = album.make(model, tmp_path)
  assert [p.name for p in found.paths] == ["good.PNG"]
  np.testing.assert_allclose(
      found.zimg, model.encode_image(found.paths), atol=1e-6
  )
  assert "bad.jpg cannot be read as an image" in caplog.text
  (tmp_path / "deep" / "good.PNG").unlink()
  with pytest.raises(UserError, match="no images that can be read, of 1 fil"):
    album.make(model, tmp_path)
