"""transformers' processor files and preprocessing strings, both ways.

preprocessor_config.json says how pictures become pixels, tokenizer_config.json
which tokenizer class reads texts; the class decides on case and punctuation.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

from etils import epath

from siglip_jax.data import preprocess
from siglip_jax.errors import UserError

# Pillow's numbers.
_METHODS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}
_GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
_SIGLIP = ("SiglipTokenizer",)
_FILES = ("spiece.model", "tokenizer.json", "tokenizer.model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processor:
  """How a folder's pictures and texts are prepared.

  Attributes:
    image: preprocessing string.
    text: preprocessing string; its tokenizer is the file's name.
    tokenizer: the file, or None where the folder has none.
  """

  image: str
  text: str
  tokenizer: epath.Path | None


def read(
    folder: epath.Path, *, image_size: int, text_len: int, vocab_size: int
) -> Processor:
  """Reads a folder's processor; what its files leave open is as in SigLIP.

  Raises:
    UserError: a tokenizer or a step of preprocessing this package has not.
  """
  config = read_json(folder / "preprocessor_config.json", default={})
  tokenizer = next((folder / f for f in _FILES if (folder / f).exists()), None)
  return Processor(
      image=_image(folder, config, image_size),
      text=_text(folder, tokenizer, text_len, vocab_size),
      tokenizer=tokenizer,
  )


def read_json(path: epath.Path, *, default: Mapping | None = None) -> dict:
  """A JSON object; `default` where there is no file.

  Raises:
    UserError: no such file, or no JSON object in it.
  """
  if not path.exists():
    if default is not None:
      return dict(default)
    raise UserError(
        f"There is no {path}: expected a folder as transformers'"
        " save_pretrained writes it."
    )
  try:
    found = json.loads(path.read_text())
  except (ValueError, OSError) as e:
    raise UserError(f"{path} is no JSON, or damaged: {e}.") from None
  if not isinstance(found, dict):
    raise UserError(f"{path} must hold a JSON object; got {found!r:.80}.")
  return found


def _image(folder: epath.Path, config: Mapping, side: int) -> str:
  given = {
      "do_resize": True,
      "do_rescale": True,
      "do_normalize": True,
      "do_center_crop": False,
      "rescale_factor": 1 / 255,
      "image_mean": [0.5] * 3,
      "image_std": [0.5] * 3,
      "resample": 3,
      "size": {"height": side, "width": side},
  } | {k: v for k, v in config.items() if v is not None}
  supported = (
      all(given[k] is True for k in ("do_resize", "do_rescale", "do_normalize"))
      and given["resample"] in list(_METHODS)
      and _is(given["rescale_factor"], 1 / 255)
      and given["size"] == {"height": side, "width": side}
      and not given["do_center_crop"]
  )
  low, high = _value_range(given["image_mean"], given["image_std"])
  if not supported or low is None:
    raise UserError(
        f"{folder / 'preprocessor_config.json'} must resize to {side} x {side}"
        " with one of Pillow's filters, divide by 255 and normalise all colors"
        f" alike; got {json.dumps(dict(config))}."
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


def _text(
    folder: epath.Path,
    tokenizer: epath.Path | None,
    text_len: int,
    vocab_size: int,
) -> str:
  config = {"tokenizer_class": None, "do_lower_case": True}
  config |= read_json(folder / "tokenizer_config.json", default={})
  name = tokenizer.name if tokenizer is not None else "none"
  kind = config["tokenizer_class"]
  if kind is None:
    kind = (_GEMMA if vocab_size == 256_000 else _SIGLIP)[0]
  if kind in _SIGLIP:
    options, before = "pad_value=1, space='marked'", "strip_punctuation|"
    if config["do_lower_case"]:
      before = f"lower|{before}"
  elif kind in _GEMMA:
    # Trained on lower case, whether or not the tokenizer sees to it.
    options, before = "pad_value=0", "lower('characters')|"
  elif kind == "PreTrainedTokenizerFast" and "siglip_jax_text" in config:
    return _own(folder, config["siglip_jax_text"])
  else:
    raise UserError(
        f"{folder / 'tokenizer_config.json'}: tokenizer_class must be one of"
        f" {', '.join((*_SIGLIP, *_GEMMA))}; got {kind!r}."
    )
  return (
      f"{before}tokenize(max_len={text_len}, model={name!r}, eos='sticky',"
      f" {options})"
  )


def _own(folder: epath.Path, text: Any) -> str:
  """The string that this package wrote into the folder."""
  if not isinstance(text, str):
    raise UserError(
        f"{folder / 'tokenizer_config.json'}: siglip_jax_text must be a"
        f" preprocessing string; got {text!r}."
    )
  preprocess.parse(text)
  return text


def write(folder: os.PathLike, image: str, image_size: int) -> None:
  """Writes preprocessor_config.json.

  Args:
    folder: there already.
    image: preprocessing string of pictures.
    image_size: side of the pictures, pixels.

  Raises:
    UserError: transformers cannot do what it does.
  """
  calls = preprocess.parse(image)
  steps = {name: (args, kwargs) for name, args, kwargs in calls}
  args, kwargs = steps.pop("resize", ([None], {}))
  resize = preprocess.arguments("resize", args, kwargs)
  (low, high), _ = steps.pop("value_range", ((-1, 1), {}))
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
        f" pictures take {image!r}. Give another with --image."
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
  path = epath.Path(folder) / "preprocessor_config.json"
  path.write_text(json.dumps(config, indent=2) + "\n")
