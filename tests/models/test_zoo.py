"""Released models: sizes, names, and weights that are another model's."""

import jax
import numpy as np
import pytest

from siglip_jax import tree
from siglip_jax.data import preprocess
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import layouts

# As the Hugging Face Hub counts the tensors of the converted weights.
PUBLISHED = {
    "siglip-b16-224": 203_155_970,
    "siglip-b16-256": 203_202_050,
    "siglip-b16-384": 203_447_810,
    "siglip-b16-512": 203_791_874,
    "siglip-l16-256": 652_150_786,
    "siglip-l16-384": 652_478_466,
    "siglip-so400m14-224": 877_360_306,
    "siglip-so400m14-384": 877_960_498,
    "siglip-b16-i18n-256": 370_626_050,
    "siglip-so400m16-i18n-256": 1_128_758_962,
    "siglip2-b32-256": 376_856_066,
    "siglip2-b16-224": 375_187_970,
    "siglip2-b16-256": 375_234_050,
    "siglip2-b16-384": 375_479_810,
    "siglip2-b16-512": 375_823_874,
    "siglip2-l16-256": 881_526_786,
    "siglip2-l16-384": 881_854_466,
    "siglip2-l16-512": 882_313_218,
    "siglip2-so400m14-224": 1_135_463_602,
    "siglip2-so400m14-384": 1_136_008_498,
    "siglip2-so400m16-256": 1_135_670_962,
    "siglip2-so400m16-384": 1_136_039_602,
    "siglip2-so400m16-512": 1_136_555_698,
    "siglip2-g-opt16-256": 1_871_393_906,
    "siglip2-g-opt16-384": 1_871_885_426,
}


def structs(name):
  shapes = zoo.get(name).shapes
  return tree.unflatten(
      {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in shapes.items()}
  )


def test_all_are_there():
  assert zoo.names() == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_has_the_published_number_of_parameters_and_is_known_again(name):
  variant = zoo.get(name)
  assert variant.num_params == PUBLISHED[name]
  assert zoo.identify(structs(name)) is variant
  for recipe in (variant.big_vision, variant.transformers):
    options = preprocess.tokenize_options(recipe.text)
    assert options["max_len"] == variant.text_len
    assert options["pad_value"] == (0 if "siglip2" in name else 1)
    assert options["eos"] == "sticky" and "lower" in recipe.text
    side = preprocess.parse(recipe.image)[1][1]
    assert side == [variant.image_size]
    assert preprocess.Preprocess(recipe.image).value_range == (-1, 1)
    assert recipe.weights and recipe.tokenizer


def test_the_text_tower_of_the_largest_is_smaller():
  shapes = zoo.get("siglip2-g-opt16-256").shapes
  assert shapes["img/embedding/kernel"] == (16, 16, 3, 1536)
  assert shapes["txt/head/kernel"] == (1152, 1536)


def test_the_last_pixels_of_384_are_in_no_patch_of_14():
  shapes = zoo.get("siglip-so400m14-384").shapes
  assert shapes["img/pos_embedding"] == (1, 27 * 27, 1152)


def test_weights_of_another_model_are_named():
  params = structs("siglip-b16-256")
  zoo.get("siglip-b16-256").check(params)
  zoo.get("siglip-b16-256").check(layouts.unrolled(params))
  with pytest.raises(UserError, match="are siglip-b16-256's, not siglip2-b16"):
    zoo.get("siglip2-b16-256").check(layouts.unrolled(params))
  params["txt"]["head"]["kernel"] = jax.ShapeDtypeStruct((768, 5), np.float32)
  with pytest.raises(
      UserError,
      match=r"nor any .*txt/head/kernel should be \(768, 768\), got \(768, 5\)",
  ):
    zoo.get("siglip-b16-256").check(params)
  assert zoo.identify(params) is None
  assert zoo.identify({"t": np.ones(1)}) is None
  del params["b"]
  with pytest.raises(UserError, match=r"b should be \(1,\), got none"):
    zoo.get("siglip-b16-256").check(params)


def test_unknown_names_get_a_suggestion():
  with pytest.raises(UserError, match="did you mean 'siglip2-so400m16-384'"):
    zoo.get("siglip2-so400m-16-384")
  with pytest.raises(UserError, match="no released model 'x'; known are"):
    zoo.get("x")


def test_the_tokenizer_of_another_model_is_named():
  variant = zoo.get("siglip-b16-i18n-256")
  for pieces in (250_000, 250_100):  # mT5's has a hundred more
    variant.check_tokenizer("a.model", pieces=pieces, digest="")
  for pieces in (32_000, 249_999, 256_000):
    match = f"mc4, of 250000 pieces; a.model has {pieces}"
    with pytest.raises(UserError, match=match):
      variant.check_tokenizer("a.model", pieces=pieces, digest="")


def test_a_tokenizer_of_as_many_pieces_is_told_by_its_digest():
  variant = zoo.get("siglip-b16-256")
  right = variant.tokenizer_sha256
  variant.check_tokenizer("a.model", pieces=32_000, digest=right)
  with pytest.raises(UserError, match="sha256 1e50.*; a.model has sha256 0000"):
    variant.check_tokenizer("a.model", pieces=32_000, digest="0" * 64)
