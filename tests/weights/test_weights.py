"""`read`: weights of every origin, and what is known of them."""

import json
from pathlib import Path
import shutil

import fsspec
import numpy as np
import pytest
import specs

from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import big_vision
from siglip_jax.weights import workdirs

NPZ = Path("tests/fixtures/big_vision_tiny.npz").absolute()
FOLDER2 = Path("tests/fixtures/hf_siglip2_tiny").absolute()


def test_an_npz_says_nothing_but_its_parameters():
  found = weights_lib.read(NPZ)
  assert found.kind == "npz" and found.path == str(NPZ)
  assert set(found.params) == {"img", "txt", "t", "b"}
  assert (found.model, found.text, found.tokenizer) == (None, None, None)
  assert found.variant is None  # not of a released model's sizes
  assert found.as_released("big_vision") is found


def test_a_lone_vit_is_an_image_tower(tmp_path):
  img = tree.flatten(big_vision.read(NPZ)["img"])
  np.savez(tmp_path / "vit.npz", **img)
  found = weights_lib.read(tmp_path / "vit.npz")
  assert found.params.keys() == {"img"}
  assert tree.flatten(found.params["img"]).keys() == img.keys()


@pytest.mark.parametrize("convention", ["big_vision", "transformers"])
def test_what_an_npz_leaves_open_its_released_model_says(convention):
  variant = zoo.get("siglip-b16-224")
  bare = weights_lib.Weights(path="x", kind="npz", params={}, checked=variant)
  found = bare.as_released(convention)
  recipe = getattr(variant, convention)
  assert (found.image, found.text) == (recipe.image, recipe.text)
  assert (found.image_size, found.text_len) == (224, 64)
  assert found.model == variant.model and found.variant is variant


def test_a_transformers_folder_gives_towers_and_how_to_feed_them():
  found = weights_lib.read("tests/fixtures/hf_siglip_tiny")
  assert set(found.params) == {"img", "txt", "t", "b"}
  assert "value_range(-1" in found.image and "tokenize" in found.text
  assert found.params["t"].shape == found.params["b"].shape == (1,)


def test_the_tokenizer_of_a_folder_elsewhere_stays_elsewhere():
  fs = fsspec.filesystem("memory")
  fs.put(str(FOLDER2), "/hub/siglip2", recursive=True)
  assert weights_lib.read(FOLDER2).tokenizer == FOLDER2 / "tokenizer.model"
  found = weights_lib.read("memory://hub/siglip2/")
  assert found.tokenizer == "memory://hub/siglip2/tokenizer.model"
  assert found.naflex and found.variant is None


def test_a_run_comes_with_all_it_was_trained_with(place, trained):
  found = weights_lib.read(trained)
  tokenizer = trained / "tokenizer.model"
  assert found.kind == "workdir" and found.tokenizer == tokenizer
  assert found.tokenizer_digest == Tokenizer(tokenizer).digest
  assert (found.image_size, found.text_len) == (16, 8)
  assert found.image == "decode|resize(16)|value_range(-1,1)"
  assert f'model="{place / "tokenizer.model"}"' in found.text
  assert found.model["image"]["width"] == 32


def test_a_name_goes_with_weights_and_weights_with_a_name():
  match = "siglip-b16-224 needs weights=PATH: gs://.*, or a copy of google/"
  with pytest.raises(UserError, match=match):
    weights_lib.read("siglip-b16-224")
  match = "weights= goes with .*got 'siglip-b16-22', as 'siglip-b16-224'"
  with pytest.raises(UserError, match=match):
    weights_lib.read("siglip-b16-22", weights=NPZ)
  with pytest.raises(UserError, match="are not siglip-b16-224's, nor any"):
    weights_lib.read("siglip-b16-224", weights=NPZ)


@pytest.mark.parametrize(
    "path, match",
    [
        ("memory://bucket/gone.npz", "no memory://bucket/gone.npz: expected"),
        ("elsewhere://x.npz", "cannot be reached: ImportError: Install it"),
        ("nosuch://bucket/x.npz", "cannot be reached: .*Protocol not known"),
        ("/gone", "no /gone: expected a workdir"),
        ("{tmp}", "holds no weights that are known"),
        ("{tmp}/text.npz", "text.npz is not an .npz"),
        ("{tmp}/run", "run holds no config.json: expected the --workdir"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, path, match):
  fsspec.register_implementation(
      "elsewhere", "no_such_package.Files", clobber=True, errtxt="Install it"
  )
  (tmp_path / "text.npz").write_text("hello")
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  with pytest.raises(UserError, match=match):
    weights_lib.read(path.format(tmp=tmp_path))


@pytest.fixture
def run(trained, tmp_path):
  """A copy of a run whose config.json a test may change."""
  return shutil.copytree(trained, tmp_path / "run")


def test_a_checkpoint_knows_its_model_whatever_config_json_says(run, trained):
  config = json.loads((run / "config.json").read_text())
  config["model"]["text"]["pool_type"] = "max"
  config["image_size"] = 99
  (run / "config.json").write_text(json.dumps(config))
  model = weights_lib.read(trained).model

  earlier, last = workdirs.kept_steps(run)
  specs.change(run, last, lambda spec: spec.update(model=model))
  found = weights_lib.read(run)
  assert found.model == model and found.image_size == 16
  assert found.model["text"].get("pool_type") != "max"

  # A checkpoint of an earlier version does not say.
  specs.forget_model(run, earlier)
  found = weights_lib.read(run, step=earlier)
  assert found.model["text"]["pool_type"] == "max" and found.image_size == 99

  (run / "config.json").unlink()
  assert weights_lib.read(run).model == model
  found = weights_lib.read(run, step=earlier)
  assert found.model is None and "holds no config.json" in found.problem


def test_a_step_of_a_run_is_named_with_its_path(run):
  first, last = workdirs.kept_steps(run)
  newest, earlier = (weights_lib.read(run, step=s) for s in (None, first))
  assert (newest.step, earlier.step) == (last, first)
  assert earlier.origin == f"{run} at step {first}"
  assert newest.params["b"] != earlier.params["b"]
  match = f"of step 7 in .* keeps {first}, {last}. Give one"
  with pytest.raises(UserError, match=match):
    weights_lib.read(run, step=7)
  # Not of a config that is missing: that is another mistake.
  (run / "config.json").unlink()
  with pytest.raises(UserError, match=match):
    weights_lib.read(run, step=7)


@pytest.mark.parametrize(
    "path, match",
    [
        (NPZ, "tiny.npz is a file, and only the workdir of a run has steps; g"),
        (FOLDER2, "tiny is a transformers folder, and only .* got step=3. Lea"),
    ],
)
def test_only_a_run_has_steps(path, match):
  assert weights_lib.read(path).origin == str(path)
  with pytest.raises(UserError, match=match):
    weights_lib.read(path, step=3)
