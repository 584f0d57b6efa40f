"""A run made ready: all is opened, and what it depends on is known."""

import json

import fakes
import pytest
import small_embeddings
import web_files

from siglip_jax.config import check as config_check
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.preflight.prepare import prepare


@pytest.fixture
def config(place):
  """tiny.py, validated."""
  config = fakes.tiny(place / "images", place / "tokenizer.model")
  config_check.validate(config)
  return config


@pytest.fixture
def on_embeddings(place, tmp_path):
  """The same on embeddings, and where these are."""
  config = fakes.tiny(place / "images", place / "tokenizer.model")
  folder = tmp_path / "embedded"
  small_embeddings.write(folder, config)
  config.data = dict(
      embeddings=str(folder),
      split="train",
      pp=f"pick_crop|{config.preprocess.text}|keep('image', 'text')",
      max_replaced_share=0.0,
  )
  config.model.embedded = True
  config.evals.colors.embeddings = str(folder)
  config.evals.colors.split = "train"
  config_check.validate(config)
  return config, folder


def test_what_the_weights_depend_on_is_what_the_config_says(
    config, place, tmp_path
):
  prepared = prepare(config, tmp_path / "new" / "run", Peers())
  digest = Tokenizer(place / "tokenizer.model").digest
  assert prepared.spec == {
      "image": config.preprocess.image,
      "text": config.preprocess.text,
      "image_size": 16,
      "text_len": 8,
      "tokenizer_digest": digest,
      "data_digest": prepared.source.digest(),
      "lanes": 1,
      "model": json.loads(json.dumps(config.model.to_dict())),
  }
  assert prepared.main and prepared.pp.tokenizer.digest == digest
  assert prepared.workdir == tmp_path / "new" / "run"
  assert not list(prepared.workdir.iterdir())


def test_a_run_is_open_and_every_process_was_heard(config, tmp_path):
  prepared = prepare(config, tmp_path, Peers())
  ((facts),) = prepared.facts
  assert facts["examples"] == len(prepared.source) == 47
  assert facts["saved"] == 0
  assert prepared.evaluators.keys() == {"colors"}
  assert prepared.run.mesh.size == 8 and prepared.run.config is config


def test_a_run_on_embeddings_depends_on_their_tower(on_embeddings, tmp_path):
  prepared = prepare(on_embeddings[0], tmp_path, Peers())
  assert isinstance(prepared.source, Embeddings)
  assert prepared.spec["tower_digest"] == "0" * 64
  assert "img" not in prepared.run.state_shapes.params


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"image_size": 32}, "made with image_size = 32, .* has 16"),
        ({"crops": 1}, "Evaluation needs every image once, .* --crops=1"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    on_embeddings, tmp_path, changes, match
):
  config, folder = on_embeddings
  other = tmp_path / "other"
  small_embeddings.write(other, config, **changes)
  if "crops" in changes:  # which training may have
    config.evals.colors.embeddings = str(other)
  else:
    config.data.embeddings = str(other)
  with pytest.raises(UserError, match=match):
    prepare(config, tmp_path / "run", Peers())


@pytest.mark.parametrize(
    "order, match",
    [
        (
            dict(lanes=3, window=1),
            "lanes must divide config.batch_size.*3 lanes",
        ),
        (dict(lanes=10_000), "a sample for each of 10000 lanes"),
        ("globl", "order must be 'global'"),
    ],
)
def test_an_order_that_cannot_be_read_is_refused_at_once(
    config, tmp_path, order, match
):
  del config.data.path
  config.data.tars = web_files.tar(tmp_path / "0.tar", 60)
  config.data.order = order
  with pytest.raises(UserError, match=match):
    prepare(config, tmp_path / "run", Peers())
