"""Preprocessing operations: (record, *arguments) -> record.

`OPS` maps names to operations. A random operation takes (record, rng,
*arguments), and `rng` is its only source of randomness. What the operations
before the first random one return can therefore be cached (`cache.py`).
"""

from collections.abc import Mapping
import inspect
import string
from typing import Any

import cv2
import numpy as np
from PIL import Image

from siglip_jax.data import colors
from siglip_jax.data import images
from siglip_jax.errors import UserError

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def decode(record, near=None, alpha="white"):
  """Decodes to RGB, in training and in evaluation alike.

  Transparent pixels become white, or keep their color with alpha="ignore".
  `near` is a side in pixels that is enough for what follows: a JPEG is decoded
  at the smallest of 1/8, 1/4, 1/2 and 1 of its size that has this side. Before
  inception_crop, its smallest part must have this side: with area_min=25, of
  which the side is half, the image has 2 * near.
  """
  _check_decode(near, alpha)
  image = images.decode(record["image"], near=near, alpha=alpha)
  return record | {"image": image}


def decode_to_pillow(record, near=None, alpha="white"):
  """Decodes as `decode` does, to an image of Pillow for `resize`."""
  _check_decode(near, alpha)
  image = images.decode(record["image"], near=near, alpha=alpha, pillow=True)
  return record | {"image": image}


def takes_pillow(name: str, options: Mapping[str, Any]) -> bool:
  """Whether an operation with these arguments takes an image of Pillow."""
  if name not in ("resize", "resize_small"):
    return False
  return str(options["method"]) in _FILTERS and options.get("antialias", True)


def decode_rgba(record):
  """Decodes to RGBA, for `background`."""
  return record | {"image": images.decode(record["image"], alpha="keep")}


def background(record, rng, color: Any = "random", p=1.0):
  """Puts RGBA on a plain color.

  The color is (r, g, b), or "random": a random one with probability p, else
  white.
  """
  if color == "random":
    r, g, b = rng.integers(0, 256, 3).tolist()
    color = (r, g, b) if rng.random() < p else (255, 255, 255)
  return record | {"image": images.composite(record["image"], color)}


def resize(record, size, method="bilinear", *, antialias=True):
  """Resizes to size x size, or to (h, w), without keeping the aspect ratio.

  The methods "bilinear", "bicubic", "lanczos" and "area" are Pillow's, where
  "area" is its box filter. "area_cv2" is OpenCV's area: each pixel counts by
  its part that is covered, and a side that grows is interpolated.
  """
  h, w = (size, size) if isinstance(size, int) else size
  if not antialias:
    return _resize_without_antialias(record, h, w, method)
  return _resized(record, (w, h), method)


def resize_small(record, size, method="bilinear"):
  """Resizes the smaller side to `size`, keeping the aspect ratio."""
  image = record["image"]
  pillow = isinstance(image, Image.Image)
  h, w = image.size[::-1] if pillow else image.shape[:2]
  new = (round(w * size / min(h, w)), round(h * size / min(h, w)))
  return _resized(record, new, method)


def central_crop(record, size):
  """Crops the central size x size pixels."""
  h, w = record["image"].shape[:2]
  return _crop(record, (h - size) // 2, (w - size) // 2, size, size)


def random_crop(record, rng, size):
  """Crops size x size pixels at a random position."""
  h, w = record["image"].shape[:2]
  _check_crop(h, w, size)
  top, left = rng.integers(h - size + 1), rng.integers(w - size + 1)
  return _crop(record, top, left, size, size)


def inception_crop(record, rng, size, area_min=5, area_max=100):
  """Crops a random part of the image and resizes it.

  The part has area_min to area_max percent of the area and an aspect ratio from
  3:4 to 4:3.
  """
  h, w = record["image"].shape[:2]
  for _ in range(10):
    area = h * w * rng.uniform(area_min, area_max) / 100
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    ch, cw = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
    if 0 < ch <= h and 0 < cw <= w:
      top, left = rng.integers(h - ch + 1), rng.integers(w - cw + 1)
      record = _crop(record, top, left, ch, cw)
      break
  return resize(record, size)


def flip_lr(record, rng):
  """Mirrors half of the images; avoid it if captions say left or right."""
  if rng.random() < 0.5:
    return record | {"image": record["image"][:, ::-1]}
  return record


def affine(record, rng, degrees=15, shift=0.1, zoom_min=0.8, zoom_max=1.1):
  """Rotates, shifts and zooms by random amounts.

  `shift` is a fraction of the side. The color of the top left pixel fills the
  border.
  """
  image = np.ascontiguousarray(record["image"])
  h, w = image.shape[:2]
  angle = np.deg2rad(rng.uniform(-degrees, degrees))
  zoom_x, zoom_y = rng.uniform(zoom_min, zoom_max, 2)
  dx, dy = rng.uniform(-shift, shift, 2) * (w, h)
  cos, sin = np.cos(angle), np.sin(angle)
  # The matrix maps output to input pixels, so each transform is inverted.
  a, b, c, d = cos / zoom_x, sin / zoom_x, -sin / zoom_y, cos / zoom_y
  x, y = (w - 1) / 2, (h - 1) / 2
  x0, y0 = x + dx, y + dy
  matrix = np.array([[a, b, x - a * x0 - b * y0], [c, d, y - c * x0 - d * y0]])
  image = cv2.warpAffine(
      image,
      matrix,
      (w, h),
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_CONSTANT,
      borderValue=image[0, 0].tolist(),
  )
  return record | {"image": image}


def copy(record, inkey, outkey):
  """Stores the value of `inkey` under `outkey` as well."""
  return record | {outkey: record[inkey]}


def choice(record, rng, *inkeys, outkey="text", p=None):
  """Stores the value of a random one of `inkeys` under `outkey`.

  `p` has the probability of each key; by default they are equal. Blank texts,
  empty lists and None are passed over, and the probabilities of the other keys
  grow alike; a key with probability 0 is for records where all others are
  empty. If all are, the value is "". A key that a record lacks is an error.
  """
  weights = _weights(p, len(inkeys))
  keys = [i for i, key in enumerate(inkeys) if not _is_empty(record[key])]
  if not keys:
    return record | {outkey: ""}
  shares = np.array([weights[i] for i in keys])
  if p is None or not shares.any():
    number = rng.integers(len(keys))
  else:
    number = rng.choice(len(keys), p=shares / shares.sum())
  return record | {outkey: record[inkeys[keys[number]]]}


def pick(record, rng, key, outkey="text"):
  """Stores a random one of the texts listed under `key` under `outkey`.

  Blank texts are passed over, and if there is no other, the text is "". A text
  that is not in a list is taken as it is.
  """
  texts = record[key]
  if isinstance(texts, str):
    return record | {outkey: texts}
  if not isinstance(texts, list | tuple | np.ndarray):
    raise UserError(f"pick takes a list of texts; {key!r} is {named(texts)}.")
  texts = [text for text in texts if not _is_empty(text)]
  if not texts:
    return record | {outkey: ""}
  text = texts[rng.integers(len(texts))]
  text = text.decode() if isinstance(text, bytes) else text
  if not isinstance(text, str):
    raise UserError(f"pick takes a list of texts; {key!r} has {named(text)}.")
  return record | {outkey: text}


def pick_crop(record, rng):
  """Picks a random crop's embedding from a record of `embeddings.py`."""
  z = record["image"]
  return record | {"image": z[rng.integers(len(z))]}


def keep(record, *keys):
  """Drops all values except those of `keys`."""
  return {k: record[k] for k in keys}


def lower(record, method="text"):
  """Lower-cases the text by one of three methods.

  "text" is Python's str.lower. "characters" lower-cases one character at a
  time, as transformers does, so it never writes a final sigma. "ascii" changes
  only A to Z, as TensorFlow and therefore big_vision do.
  """
  text = text_of(record, "lower")
  if method == "text":
    return record | {"text": text.lower()}
  if method == "characters":
    return record | {"text": "".join(c.lower() for c in text)}
  if method == "ascii":
    return record | {"text": text.translate(_ASCII_LOWER)}
  raise UserError(f"lower takes text, characters or ascii; got {method!r}.")


def strip_punctuation(record):
  """Removes ASCII punctuation, as transformers does for SigLIP."""
  text = text_of(record, "strip_punctuation")
  return record | {"text": text.translate(_NO_PUNCTUATION)}


def text_of(record, name: str) -> str:
  """Returns a record's text, for the operation `name`.

  Raises:
    UserError: when it is not one text.
  """
  text = record["text"]
  if isinstance(text, str):
    return text
  if isinstance(text, list | tuple):
    hint = 'Pick one of them before, with pick("text").'
  else:
    hint = 'Put copy(KEY, "text") before, with the key of a text.'
  raise UserError(f"{name} cannot be applied to {named(text)}. {hint}")


def named(value) -> str:
  """Returns the type and the beginning of a value, in words for an error."""
  kind = type(value).__name__
  article = "an" if kind[0] in "aeiou" else "a"
  return f"{article} {kind}: got {str(value)[:80]}"


def _crop(record, top, left, h, w):
  height, width = record["image"].shape[:2]
  _check_crop(height, width, max(h, w) if h == w else 0)
  return record | {"image": record["image"][top : top + h, left : left + w]}


def _check_crop(h, w, size):
  if size > min(h, w):
    raise UserError(
        f"A crop of {size} pixels needs an image at least as large; got"
        f" {h} x {w}. Put resize_small({size}) before it."
    )


def _check_decode(near, alpha):
  if alpha not in ("white", "ignore"):
    raise UserError(f"decode: alpha must be white or ignore; got {alpha!r}.")
  if near is not None and (not isinstance(near, int) or near < 1):
    raise UserError(
        f"decode: near must be a side in pixels, as in near=224; got {near!r}."
    )


def _weights(p, number):
  """Returns the probabilities of `choice` for a number of keys, checked."""
  if p is None:
    return [1.0] * number
  numbers = isinstance(p, list | tuple) and all(
      isinstance(x, int | float) and x >= 0 for x in p
  )
  if not numbers or len(p) != number or abs(sum(p) - 1) > 1e-6:
    raise UserError(
        f"choice takes a probability for each of its {number} keys, which add"
        f" up to 1, as p=(0.8, 0.2) for two keys; got {p!r}."
    )
  return p


def _is_empty(value) -> bool:
  """Whether a value holds no text: None, a blank text or an empty list."""
  if isinstance(value, str | bytes):
    return not value or value.isspace()
  if isinstance(value, list | tuple | np.ndarray):
    return not len(value)
  return value is None


def _resized(record, size, method):
  """Resizes to (width, height) with antialias."""
  if method != "area_cv2":
    image = images.resize(record["image"], size, _FILTERS[method])
    return record | {"image": image}
  image = np.ascontiguousarray(record["image"])
  h, w = image.shape[:2]
  smaller = min(size[0], w), min(size[1], h)
  image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
  if smaller != size:
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
  return record | {"image": image}


def _resize_without_antialias(record, h, w, method):
  """Resizes by bilinear interpolation without antialiasing.

  TensorFlow's resize does this by default, and so does big_vision's. Both
  truncate fractional byte values, which OpenCV would round. It interpolates
  sixteen bits here, of which the upper eight are kept: a value that is less
  than 1/512 below the next one becomes that.
  """
  if method != "bilinear":
    raise UserError(
        f"resize without antialias must be bilinear; got {method!r}."
    )
  image = np.left_shift(record["image"], 8, dtype=np.uint16, order="C")
  image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
  return record | {"image": (image >> 8).astype(np.uint8)}


# The only registry of operations. ON_IMAGES work on uint8 images or embeddings
# and must come before value_range; ON_ANYTHING may also follow it.
ON_IMAGES = (
    decode,
    decode_rgba,
    background,
    resize,
    resize_small,
    central_crop,
    random_crop,
    inception_crop,
    flip_lr,
    affine,
    colors.color_jitter,
    colors.blur,
    colors.grayscale,
    colors.redraw,
    pick_crop,
)
ON_ANYTHING = (copy, choice, pick, keep, lower, strip_punctuation)
OPS = {op.__name__: op for op in (*ON_IMAGES, *ON_ANYTHING)}


def is_random(name: str) -> bool:
  """Whether an operation takes a random generator, `rng`."""
  return name in OPS and "rng" in inspect.signature(OPS[name]).parameters
