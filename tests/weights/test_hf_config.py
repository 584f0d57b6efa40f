"""config.json of transformers as arguments of TwoTowers, and back."""

import json

from hf_folders import TINY
from hf_folders import TINY2
from hf_folders import change
import numpy as np
import pytest
from safetensors import numpy as safetensors

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.weights import big_vision
from siglip_jax.weights import hf_config
from siglip_jax.weights import transformers


@pytest.mark.parametrize("tiny", [TINY, TINY2])
def test_both_kinds_of_models_say_their_sizes(tiny):
  config = hf_config.read(tiny)
  assert config.siglip2 == (tiny == TINY2)
  sizes = (config.image_size, config.num_positions, config.text_len)
  assert sizes == (32, 16, 16)


def test_what_config_json_leaves_out_is_siglips_default(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
  safetensors.save_file({"a": np.ones(1)}, tmp_path / "model.safetensors")
  # 404 tensors: 2 towers of 12 blocks of 16, and the rest.
  with pytest.raises(UserError, match="must be float32"):
    transformers.read(tmp_path)
  safetensors.save_file({"a": np.ones(1, "f4")}, tmp_path / "model.safetensors")
  with pytest.raises(UserError, match="408 are missing.* 1 are unknown .a"):
    transformers.read(tmp_path)


def test_null_says_no_more_than_silence(folder):
  before = hf_config.read(folder)
  change(folder, text_config__hidden_act=None, vision_config__num_channels=None)
  assert hf_config.read(folder) == before
  change(folder, vision_config=None)
  assert hf_config.read(folder).vision["hidden_size"] == 768


def test_images_that_patches_do_not_divide_are_ragged(folder):
  assert "ragged" not in hf_config.model(hf_config.read(folder))["image"]
  change(folder, vision_config__image_size=39)
  config = hf_config.read(folder)
  assert hf_config.model(config)["image"]["ragged"] is True
  assert config.num_positions == 16


def test_texts_are_projected_to_their_own_width_by_default(folder):
  for size, width in ((None, 48), (5, 5)):
    change(folder, text_config__projection_size=size)
    model = hf_config.model(hf_config.read(folder))
    assert model["out_dim"] == (None, width)


@pytest.mark.parametrize(
    "values, match",
    [
        ({"model_type": "clip"}, "must be of a SiglipModel.*got 'clip'"),
        ({"vision_config": 3}, "vision_config must be an object; got 3"),
        (
            {"text_config__hidden_act": "gelu"},
            "text_config.hidden_act must be 'gelu_pytorch_tanh'.* got 'gelu'",
        ),
        ({"vision_config__vision_use_head": False}, "vision_use_head must be"),
        (
            {"text_config__vocab_size": "200"},
            "positive integer, at most 16777216; got '200'",
        ),
    ],
)
def test_a_config_of_no_known_model_is_named(folder, values, match):
  change(folder, **values)
  with pytest.raises(UserError, match=match):
    transformers.read(folder)


@pytest.mark.parametrize(
    "values, match",
    [
        (
            {"vision_config__num_patches": 17},
            "num_patches must be a square, .* got 17",
        ),
        (
            {"vision_config__num_patches": 0},
            "positive integer, at most 16777216; got 0",
        ),
        (
            {"vision_config__patch_size": [8, 8]},
            "positive integer, at most 16777216; got .8, 8.",
        ),
    ],
)
def test_a_siglip2_config_of_no_square_images(folder2, values, match):
  change(folder2, **values)
  with pytest.raises(UserError, match=match):
    transformers.read(folder2)


def test_the_config_of_parameters_is_read_back_as_their_model(tmp_path):
  params = big_vision.read("tests/fixtures/big_vision_tiny.npz")
  written = hf_config.of_params(tree.flatten(params), 32)
  (tmp_path / "config.json").write_text(json.dumps(written))
  assert hf_config.model(hf_config.read(tmp_path)) == dict(
      image=dict(width=64, depth=2, mlp_dim=160, num_heads=4, patch=8),
      text=dict(width=64, depth=3, mlp_dim=128, num_heads=2, vocab_size=256),
      out_dim=(None, 64),
      bias_init=-10.0,
  )


def test_models_that_siglip_model_cannot_be(tmp_path):
  params = tree.flatten(big_vision.read("tests/fixtures/big_vision_tiny.npz"))

  def refuse(match, *, image_size=32, **changes):
    flat = params | changes
    flat = {n: x for n, x in flat.items() if x is not None}
    with pytest.raises(UserError, match=match):
      transformers.write(tmp_path, tree.unflatten(flat), image_size=image_size)

  refuse("differs in b", b=None)
  refuse("differs in img/cls", **{"img/cls": np.ones((1, 1, 64), "f4")})
  refuse("16 positions and patches of 8 .* 64 x 64", image_size=64)
  narrow = {"txt/head/kernel": np.ones((64, 5), "f4")}
  refuse("width of the image tower, 64; got 5", **narrow)
  no_blocks = {n: None for n in params if "txt/Encoder_0/encoderblock" in n}
  refuse("no blocks txt/Encoder_0/encoderblock_0", **no_blocks)
  assert not list(tmp_path.iterdir())
