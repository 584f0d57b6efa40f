"""transformers' processor files as preprocessing strings, and back."""

import json
import shutil

from hf_folders import change
import pytest

from siglip_jax.errors import UserError
from siglip_jax.weights import hf_processor
from siglip_jax.weights import transformers


def test_the_files_say_how_to_prepare(folder):
  def read():
    found = transformers.read(folder)
    return found.image, found.text

  image, text = read()
  assert image == "decode|resize(32, method='bicubic')|value_range(-1, 1)"
  assert text.startswith("lower|strip_punctuation|tokenize(max_len=16")
  assert "space='marked'" in text and "pad_value=1" in text
  name = "preprocessor_config.json"
  change(folder, name, resample=2, do_convert_rgb=None)
  change(folder, name, image_mean=[0.0] * 3, image_std=[1.0] * 3)
  change(folder, "tokenizer_config.json", tokenizer_class="GemmaTokenizerFast")
  gemma = "tests/fixtures/gemma_tokenizer.json"
  shutil.copyfile(gemma, folder / "tokenizer.json")
  image, text = read()
  assert image == "decode|resize(32, method='bilinear')|value_range(0, 1)"
  assert text == (
      "lower('characters')|tokenize(max_len=16, model='tokenizer.json',"
      " eos='sticky', pad_value=0)"
  )
  assert transformers.read(folder).tokenizer == folder / "tokenizer.json"
  change(folder, "tokenizer_config.json", tokenizer_class="CLIPTokenizer")
  with pytest.raises(UserError, match="SiglipTokenizer.* got 'CLIPTokenizer'"):
    read()


def test_the_processor_of_version_5_counts(folder):
  change(folder, "preprocessor_config.json", resample=3)
  change(folder, "processor_config.json", processor_class="SiglipProcessor")
  assert "bicubic" in transformers.read(folder).image
  change(folder, "processor_config.json", image_processor={"resample": 2})
  assert "bilinear" in transformers.read(folder).image
  change(folder, "processor_config.json", image_processor={"do_resize": False})
  with pytest.raises(UserError, match="/processor_config.json must resize"):
    transformers.read(folder)
  change(folder, "processor_config.json", image_processor="x")
  with pytest.raises(UserError, match="must be an object; got 'x'"):
    transformers.read(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"do_resize": False},
        {"resample": 0},
        {"resample": "bicubic"},
        {"resample": [3]},
        {"size": {"height": 32, "width": 48}},
        {"size": {"shortest_edge": 32}},
        {"rescale_factor": 1},
        {"image_mean": [0.4, 0.5, 0.6]},
        {"image_mean": "x"},
        {"image_std": 0},
        {"do_center_crop": True},
    ],
)
def test_other_preprocessing_is_refused(folder, values):
  change(folder, "preprocessor_config.json", **values)
  with pytest.raises(UserError, match="config.json must resize"):
    transformers.read(folder)


@pytest.mark.parametrize(
    "values, match",
    [
        (
            {"vision_config__num_patches": 25},
            "must resize to 40 x 40, 25 patches, .*max_num_patches.: 16",
        ),
        ({"vision_config__patch_size": 4}, "must resize to 16 x 16"),
    ],
)
def test_a_siglip2_processor_makes_the_models_patches(folder2, values, match):
  change(folder2, **values)
  with pytest.raises(UserError, match=match):
    transformers.read(folder2)


def test_what_this_package_wrote_must_fit_the_model(folder):
  name = "tokenizer_config.json"
  change(folder, name, tokenizer_class="PreTrainedTokenizerFast")
  for text, match in (
      ("lower", "must end in tokenize"),
      ("tokenize(max_len=9, model='x')", "the 16 positions .* got max_len=9"),
      (3, "must be a preprocessing string; got 3"),
  ):
    change(folder, name, siglip_jax_text=text)
    with pytest.raises(UserError, match=match):
      transformers.read(folder)


@pytest.mark.parametrize(
    "kind, right", [("SiglipTokenizer", "</s>"), ("Siglip2Tokenizer", "<pad>")]
)
def test_texts_are_filled_up_as_in_training(folder, kind, right):
  name = "tokenizer_config.json"
  for token in (right, {"content": right}, None):
    change(folder, name, tokenizer_class=kind, pad_token=token)
    transformers.read(folder)
  for token in ("<unk>", {"content": "<unk>"}):
    change(folder, name, pad_token=token)
    with pytest.raises(UserError, match=f"must be '{right}', .* got '<unk>'"):
      transformers.read(folder)


def test_a_range_may_be_given_by_name(tmp_path):
  hf_processor.write(
      tmp_path, "decode|resize(32)|value_range(low=0, high=1)", 32
  )
  config = json.loads((tmp_path / "preprocessor_config.json").read_text())
  assert config["image_mean"] == [0.0] * 3 and config["image_std"] == [1.0] * 3
  with pytest.raises(UserError, match="two numbers, the lower first; got 1, 1"):
    hf_processor.write(tmp_path, "decode|resize(32)|value_range(1, 1)", 32)
