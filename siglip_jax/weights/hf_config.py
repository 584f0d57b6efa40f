"""Conversion between transformers' config.json and arguments of TwoTowers.

Supports SiglipModel, and Siglip2Model at one image size: square images with as
many patches as the model has positions. At that size a Siglip2Model is a
SiglipModel that embeds its patches with a dense layer.
"""

from collections.abc import Mapping
import dataclasses
import math
from pathlib import Path
from typing import Any

from siglip_jax.errors import UserError
from siglip_jax.weights import hf_json
from siglip_jax.weights import hf_names

SECTIONS = ("vision_config", "text_config")
# Defaults of SiglipConfig; config.json lists only what differs from them.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_IMAGES = _DEFAULTS | {
    "patch_size": 16,
    "num_channels": 3,
    "vision_use_head": True,
}
_VISION = _IMAGES | {"image_size": 224}
_VISION2 = _IMAGES | {"num_patches": 256}
_TEXT = _DEFAULTS | {
    "vocab_size": 32_000,
    "max_position_embeddings": 64,
    "projection_size": None,
}
_LARGEST = 2**24  # far above any model's sizes, far below overflows
# The only values that this package's towers support.
_FIXED = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "vision_use_head": True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The settings in a config.json.

  Attributes:
    siglip2: whether the model is a Siglip2Model.
    vision: settings of the image tower, complete and of the right types.
    text: settings of the text tower, complete and of the right types.
  """

  siglip2: bool
  vision: dict[str, Any]
  text: dict[str, Any]

  @property
  def num_positions(self) -> int:
    """The number of patches in an image."""
    if self.siglip2:
      return self.vision["num_patches"]
    return (self.vision["image_size"] // self.vision["patch_size"]) ** 2

  @property
  def image_size(self) -> int:
    """The side of the images, pixels."""
    if self.siglip2:
      return math.isqrt(self.num_positions) * self.vision["patch_size"]
    return self.vision["image_size"]

  @property
  def text_len(self) -> int:
    """The length of a text, tokens."""
    return self.text["max_position_embeddings"]


def read(folder: Path) -> Config:
  """Reads config.json.

  Raises:
    UserError: the file is missing, or describes another kind of model.
  """
  path = folder / "config.json"
  config = {"model_type": None, **dict.fromkeys(SECTIONS, {})}
  config |= _without_nulls(hf_json.read(path))
  model_type = config["model_type"]
  if model_type not in ("siglip", "siglip2"):
    raise UserError(
        f"{path} must be of a SiglipModel or Siglip2Model, model_type 'siglip'"
        f" or 'siglip2'; got {model_type!r}."
    )
  siglip2 = model_type == "siglip2"
  sections = []
  for key, defaults in zip(
      SECTIONS, (_VISION2 if siglip2 else _VISION, _TEXT), strict=True
  ):
    section = config[key]
    if not isinstance(section, dict):
      raise UserError(f"{path}: {key} must be an object; got {section!r}.")
    section = _without_nulls(section)
    settings = defaults | {k: section[k] for k in defaults if k in section}
    _check_section(f"{path}: {key}", settings)
    sections.append(settings)
  if siglip2 and math.isqrt(n := sections[0]["num_patches"]) ** 2 != n:
    raise UserError(
        f"{path}: vision_config.num_patches must be a square, as of the patches"
        f" of a square image; got {n}."
    )
  return Config(siglip2=siglip2, vision=sections[0], text=sections[1])


def _without_nulls(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the settings without nulls, which transformers treats as unset."""
  return {k: v for k, v in settings.items() if v is not None}


def _check_section(what: str, settings: Mapping[str, Any]) -> None:
  for key, value in settings.items():
    if key in _FIXED:
      if value != _FIXED[key]:
        raise UserError(
            f"{what}.{key} must be {_FIXED[key]!r}, as in every released model;"
            f" got {value!r}."
        )
    elif value is None and key == "projection_size":
      continue
    elif type(value) is not int or not 0 < value <= _LARGEST:
      raise UserError(
          f"{what}.{key} must be a positive integer, at most {_LARGEST}; got"
          f" {value!r}."
      )


def model(config: Config) -> dict[str, Any]:
  """Returns the keyword arguments of TwoTowers."""
  vision, text = config.vision, config.text
  image = _sizes(vision) | {"patch": vision["patch_size"]}
  if config.image_size % vision["patch_size"]:
    image["ragged"] = True
  return dict(
      image=image,
      text=_sizes(text) | {"vocab_size": text["vocab_size"]},
      out_dim=(None, text["projection_size"] or text["hidden_size"]),
      bias_init=-10.0,
  )


def _sizes(section: Mapping) -> dict[str, Any]:
  return dict(
      width=section["hidden_size"],
      depth=section["num_hidden_layers"],
      mlp_dim=section["intermediate_size"],
      num_heads=section["num_attention_heads"],
  )


def of_params(flat: Mapping, image_size: int) -> dict[str, Any]:
  """Returns the content of config.json, derived from the parameters.

  Args:
    flat: parameters by name, blocks unrolled.
    image_size: side of the images, pixels.

  Raises:
    UserError: the model cannot be expressed as a SiglipModel.
  """
  vision = _section(flat, "img/Transformer/encoderblock_")
  text = _section(flat, "txt/Encoder_0/encoderblock_")
  expected = set(
      hf_names.pairs(vision["num_hidden_layers"], text["num_hidden_layers"])
  )
  if expected != flat.keys():
    differing = sorted(expected ^ flat.keys())
    raise UserError(
        "SiglipModel is two transformers with a pooling head of images, a"
        " last token and a projection of texts, temperature and bias; this"
        f" model differs in {', '.join(differing[:3])}."
    )
  vision |= {
      "model_type": "siglip_vision_model",
      "image_size": image_size,
      "patch_size": flat["img/embedding/kernel"].shape[0],
      "num_channels": 3,
      "vision_use_head": True,
  }
  text |= {
      "model_type": "siglip_text_model",
      "vocab_size": flat["txt/Embed_0/embedding"].shape[0],
      "max_position_embeddings": flat["txt/pos_embedding"].shape[1],
      "projection_size": flat["txt/head/kernel"].shape[1],
  }
  tokens = flat["img/pos_embedding"].shape[1]
  if tokens != (image_size // vision["patch_size"]) ** 2:
    raise UserError(
        f"A model with {tokens} positions and patches of"
        f" {vision['patch_size']} pixels does not take images of"
        f" {image_size} x {image_size}."
    )
  if text["projection_size"] != vision["hidden_size"]:
    raise UserError(
        "SiglipModel projects texts to the width of the image tower,"
        f" {vision['hidden_size']}; got {text['projection_size']}."
    )
  return {
      "architectures": ["SiglipModel"],
      "model_type": "siglip",
      "dtype": "float32",
      "vision_config": vision,
      "text_config": text,
  }


def _section(flat: Mapping, prefix: str) -> dict[str, Any]:
  """Returns the settings of the encoder whose blocks start with `prefix`."""
  blocks = {
      name.removeprefix(prefix).partition("/")[0]
      for name in flat
      if name.startswith(prefix)
  }
  if not blocks:
    raise UserError(
        "SiglipModel's towers are transformers; this model has no blocks"
        f" {prefix}0, ..., so it cannot be one."
    )
  block = f"{prefix}0/"
  width, heads, _ = flat[
      f"{block}MultiHeadDotProductAttention_0/query/kernel"
  ].shape
  return {
      "hidden_size": width,
      "intermediate_size": flat[f"{block}MlpBlock_0/Dense_0/kernel"].shape[1],
      "num_hidden_layers": len(blocks),
      "num_attention_heads": heads,
      "hidden_act": "gelu_pytorch_tanh",
      "layer_norm_eps": 1e-6,
      "attention_dropout": 0.0,
  }
