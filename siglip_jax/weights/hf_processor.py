"""transformers' processor files and preprocessing strings, both ways.

preprocessor_config.json says how images become pixels, or since version 5 a
part of processor_config.json, which then counts; tokenizer_config.json says
which tokenizer class reads texts; the class decides on case and punctuation.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from siglip_jax.data import preprocess
from siglip_jax.errors import UserError
from siglip_jax.weights import hf_config
from siglip_jax.weights import hf_json

# Pillow's numbers.
_METHODS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}
_GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
_SIGLIP = ("SiglipTokenizer",)
# Of a tokenizer.json that holds all steps, as this package writes it; version 5
# saves it again by the second name.
_ANY = ("PreTrainedTokenizerFast", "TokenizersBackend")
_EOS, _PAD = "</s>", "<pad>"
_FILES = ("spiece.model", "tokenizer.json", "tokenizer.model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processor:
  """How a folder's images and texts are prepared.

  Attributes:
    image: preprocessing string.
    text: preprocessing string; its tokenizer is the file's name.
    tokenizer: the file, or None where the folder has none.
  """

  image: str
  text: str
  tokenizer: Path | None


def read(folder: Path, config: hf_config.Config) -> Processor:
  """Reads a folder's processor; what its files leave open is as in SigLIP.

  Raises:
    UserError: a tokenizer or a step of preprocessing this package has not.
  """
  tokenizer = next((folder / f for f in _FILES if (folder / f).exists()), None)
  return Processor(
      image=_image(*_image_settings(folder), config),
      text=_text(folder, tokenizer, config),
      tokenizer=tokenizer,
  )


def _image_settings(folder: Path) -> tuple[Path, dict]:
  """The file that counts, and what it says of images."""
  path, key = folder / "processor_config.json", "image_processor"
  found = ({key: None} | hf_json.read(path, default={}))[key]
  if found is None:
    path = folder / "preprocessor_config.json"
    return path, hf_json.read(path, default={})
  if not isinstance(found, dict):
    raise UserError(f"{path}: {key} must be an object; got {found!r}.")
  return path, found


def _image(path: Path, said: Mapping, config: hf_config.Config) -> str:
  side = config.image_size
  # A Siglip2Model's processor keeps to a number of patches, not to a size. A
  # square image of as many patches as there are positions is this one.
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
  given = {
      "rescale_factor": 1 / 255,
      "image_mean": [0.5] * 3,
      "image_std": [0.5] * 3,
      "resample": 2 if config.siglip2 else 3,
  }
  given |= fixed | {k: v for k, v in said.items() if v is not None}
  supported = (
      all(given[k] == v for k, v in fixed.items())
      and given["resample"] in list(_METHODS)
      and _is(given["rescale_factor"], 1 / 255)
  )
  low, high = _value_range(given["image_mean"], given["image_std"])
  if not supported or low is None:
    more = f", {config.num_positions} patches," if config.siglip2 else ""
    raise UserError(
        f"{path} must resize to {side} x {side}{more} with one of Pillow's"
        " filters, divide by 255 and normalise all colors alike; got"
        f" {json.dumps(dict(said))}."
    )
  method = _METHODS[given["resample"]]
  return (
      f"decode|resize({side}, method={method!r})|"
      f"value_range({low:g}, {high:g})"
  )


def _is(x: Any, wanted: float) -> bool:
  return isinstance(x, float | int) and abs(x - wanted) < 1e-6


def _value_range(mean: Any, std: Any) -> tuple[float | None, float | None]:
  """What 0 and 255 become, where all colors are treated alike."""
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
  kind = config["tokenizer_class"]
  if kind is None:
    second = model.siglip2 or model.text["vocab_size"] == 256_000
    kind = (_GEMMA if second else _SIGLIP)[0]
  if kind in _SIGLIP:
    options, before = "pad_value=1, space='marked'", "strip_punctuation|"
    if config["do_lower_case"]:
      before = f"lower|{before}"
    _check_padding(path, config["pad_token"], _EOS)
  elif kind in _GEMMA:
    # Trained on lower case, whether or not the tokenizer sees to it.
    options, before = "pad_value=0", "lower('characters')|"
    _check_padding(path, config["pad_token"], _PAD)
  elif kind in _ANY and "siglip_jax_text" in config:
    return _own(folder, config["siglip_jax_text"], model.text_len)
  else:
    raise UserError(
        f"{path}: tokenizer_class must be one of"
        f" {', '.join((*_SIGLIP, *_GEMMA))}; got {kind!r}."
    )
  return (
      f"{before}tokenize(max_len={model.text_len}, model={name!r},"
      f" eos='sticky', {options})"
  )


def _check_padding(path: Path, said: Any, wanted: str) -> None:
  """Raises UserError unless the token is left open or the one trained with."""
  if isinstance(said, dict):
    # Version 4 wrote tokens with their options.
    said = {"content": None, **said}["content"]
  if said not in (None, wanted):
    raise UserError(
        f"{path}: pad_token must be {wanted!r}, as the model was trained with;"
        f" got {said!r}."
    )


def _own(folder: Path, text: Any, text_len: int) -> str:
  """The string that this package wrote into the folder."""
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
    folder: there already.
    image: preprocessing string of images.
    image_size: side of the images, pixels.

  Raises:
    UserError: transformers cannot do what it does.
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
