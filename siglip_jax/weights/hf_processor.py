"""Conversion between transformers' processor files and preprocessing strings.

preprocessor_config.json says how images become pixels. Since version 5 of
transformers a part of processor_config.json says so, and takes precedence.
tokenizer_config.json names the tokenizer class for texts; the class decides how
case and punctuation are handled.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from siglip_jax.data import preprocess
from siglip_jax.data import tokenizer as tokenizer_lib
from siglip_jax.errors import UserError
from siglip_jax.weights import hf_config
from siglip_jax.weights import hf_json

# Pillow's numbers of resampling filters.
_METHODS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}
_GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
_SIGLIP = ("SiglipTokenizer",)
# Classes of a tokenizer.json that holds every step, as this package writes it.
# Version 5 of transformers uses the second name when it saves such a tokenizer.
_ANY = ("PreTrainedTokenizerFast", "TokenizersBackend")
_EOS, _PAD = "</s>", "<pad>"
# The first that is there counts.
_FILES = ("spiece.model", *sorted(tokenizer_lib.FORMATS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processor:
  """The preprocessing of a folder's images and texts.

  Attributes:
    image: preprocessing string of images.
    text: preprocessing string of texts; it names the tokenizer's file without
      the folder.
    tokenizer: path of the tokenizer's file, or None if the folder has none.
  """

  image: str
  text: str
  tokenizer: Path | None


def read(folder: Path, config: hf_config.Config) -> Processor:
  """Reads a folder's processor; settings its files omit default to SigLIP's.

  Raises:
    UserError: the folder uses a tokenizer or a preprocessing step that this
      package does not support.
  """
  tokenizer = next((folder / f for f in _FILES if (folder / f).exists()), None)
  return Processor(
      image=_image(*_image_settings(folder), config),
      text=_text(folder, tokenizer, config),
      tokenizer=tokenizer,
  )


def _image_settings(folder: Path) -> tuple[Path, dict]:
  """Returns the file that takes precedence, and its settings for images."""
  path, key = folder / "processor_config.json", "image_processor"
  settings = ({key: None} | hf_json.read(path, default={}))[key]
  if settings is None:
    path = folder / "preprocessor_config.json"
    return path, hf_json.read(path, default={})
  if not isinstance(settings, dict):
    raise UserError(f"{path}: {key} must be an object; got {settings!r}.")
  return path, settings


def _image(path: Path, saved: Mapping, config: hf_config.Config) -> str:
  side = config.image_size
  # A Siglip2Model's processor limits the number of patches instead of fixing
  # the image size. It resizes square images to `side` if that limit is the
  # model's number of positions.
  patches = {
      "patch_size": config.vision["patch_size"],
      "max_num_patches": config.num_positions,
  }
  fixed = (patches if config.siglip2 else {}) | {
      "do_resize": True,
      "do_rescale": True,
      "do_normalize": True,
      "do_center_crop": False,
      "size": {"height": side, "width": side},
  }
  settings = {
      "rescale_factor": 1 / 255,
      "image_mean": [0.5] * 3,
      "image_std": [0.5] * 3,
      "resample": 2 if config.siglip2 else 3,
  }
  settings |= fixed | {k: v for k, v in saved.items() if v is not None}
  supported = (
      all(settings[k] == v for k, v in fixed.items())
      and settings["resample"] in list(_METHODS)
      and _is_close(settings["rescale_factor"], 1 / 255)
  )
  low, high = _value_range(settings["image_mean"], settings["image_std"])
  if not supported or low is None:
    more = f", {config.num_positions} patches," if config.siglip2 else ""
    raise UserError(
        f"{path} must resize to {side} x {side}{more} with one of Pillow's"
        " filters, divide by 255 and normalise all colors alike; got"
        f" {json.dumps(dict(saved))}."
    )
  method = _METHODS[settings["resample"]]
  return (
      f"decode|resize({side}, method={method!r})|"
      f"value_range({low:g}, {high:g})"
  )


def _is_close(x: Any, expected: float) -> bool:
  return isinstance(x, float | int) and abs(x - expected) < 1e-6


def _value_range(mean: Any, std: Any) -> tuple[float | None, float | None]:
  """Returns what 0 and 255 become, or Nones if colors are not treated alike."""
  values = []
  for x in (mean, std):
    numbers = x if isinstance(x, list) else [x]
    if not all(isinstance(n, float | int) for n in numbers):
      return None, None
    if len(set(numbers)) != 1:
      return None, None
    values.append(numbers[0])
  if not values[1]:
    return None, None
  return (0 - values[0]) / values[1], (1 - values[0]) / values[1]


def _text(folder: Path, tokenizer: Path | None, model: hf_config.Config) -> str:
  path = folder / "tokenizer_config.json"
  config = {"tokenizer_class": None, "do_lower_case": True, "pad_token": None}
  config |= hf_json.read(path, default={})
  name = tokenizer.name if tokenizer is not None else "none"
  tokenizer_class = config["tokenizer_class"]
  if tokenizer_class is None:
    siglip2 = model.siglip2 or model.text["vocab_size"] == 256_000
    tokenizer_class = (_GEMMA if siglip2 else _SIGLIP)[0]
  if tokenizer_class in _SIGLIP:
    options, prefix = "pad_value=1, space='marked'", "strip_punctuation|"
    if config["do_lower_case"]:
      prefix = f"lower|{prefix}"
    _check_padding(path, config["pad_token"], _EOS)
  elif tokenizer_class in _GEMMA:
    # The models were trained on lower case, even if the tokenizer keeps case.
    options, prefix = "pad_value=0", "lower('characters')|"
    _check_padding(path, config["pad_token"], _PAD)
  elif tokenizer_class in _ANY and "siglip_jax_text" in config:
    return _own(folder, config["siglip_jax_text"], model.text_len)
  else:
    raise UserError(
        f"{path}: tokenizer_class must be one of"
        f" {', '.join((*_SIGLIP, *_GEMMA))}; got {tokenizer_class!r}."
    )
  return (
      f"{prefix}tokenize(max_len={model.text_len}, model={name!r},"
      f" eos='sticky', {options})"
  )


def _check_padding(path: Path, pad_token: Any, expected: str) -> None:
  """Checks that pad_token is unset or the one that the model trained with."""
  if isinstance(pad_token, dict):
    # Version 4 of transformers saved tokens together with their options.
    pad_token = {"content": None, **pad_token}["content"]
  if pad_token not in (None, expected):
    raise UserError(
        f"{path}: pad_token must be {expected!r}, as the model was trained"
        f" with; got {pad_token!r}."
    )


def _own(folder: Path, text: Any, text_len: int) -> str:
  """Returns the preprocessing string that this package saved in the folder."""
  path = folder / "tokenizer_config.json"
  if not isinstance(text, str):
    raise UserError(
        f"{path}: siglip_jax_text must be a preprocessing string; got {text!r}."
    )
  length = preprocess.tokenize_options(text)["max_len"]
  if length != text_len:
    raise UserError(
        f"{path}: siglip_jax_text must tokenize to the {text_len} positions of"
        f" the model; got max_len={length}."
    )
  return text


def write(folder: os.PathLike, image: str, image_size: int) -> None:
  """Writes preprocessor_config.json.

  Args:
    folder: an existing folder.
    image: preprocessing string of images.
    image_size: side of the images, pixels.

  Raises:
    UserError: transformers' processor cannot do the same preprocessing.
  """
  calls = preprocess.parse(image)
  steps = {name: (args, kwargs) for name, args, kwargs in calls}
  args, kwargs = steps.pop("resize", ([None], {}))
  resize = preprocess.arguments("resize", args, kwargs)
  steps.pop("value_range", None)
  low, high = preprocess.Preprocess(image).value_range or (-1.0, 1.0)
  numbers = {name: number for number, name in _METHODS.items()}
  supported = (
      steps.keys() == {"decode"}
      and "alpha" not in steps["decode"][1]
      and resize["size"] == image_size
      and resize["antialias"]
      and resize["method"] in numbers
  )
  if not supported:
    raise UserError(
        "transformers' processor can decode, resize to"
        f" {image_size} x {image_size} with antialias, and scale; this model's"
        f" images take {image!r}. Give another with --image."
    )
  config = {
      "image_processor_type": "SiglipImageProcessor",
      "processor_class": "SiglipProcessor",
      "do_convert_rgb": True,
      "do_resize": True,
      "size": {"height": image_size, "width": image_size},
      "resample": numbers[resize["method"]],
      "do_rescale": True,
      "rescale_factor": 1 / 255,
      "do_normalize": True,
      "image_mean": [-low / (high - low)] * 3,
      "image_std": [1 / (high - low)] * 3,
  }
  path = Path(folder) / "preprocessor_config.json"
  path.write_text(json.dumps(config, indent=2) + "\n")
