"""Preprocessing operations: (record, *arguments) -> record.

`OPS` maps names to operations. A random operation takes (record, rng,
*arguments), and `rng` is its only source of randomness. What the operations
before the first random one return can therefore be cached (`cache.py`).
"""

from collections.abc import Callable
import inspect
import string
from typing import Any

import cv2
import numpy as np
from PIL import Image

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
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


def decode(record, near=None, alpha="white"):
  """Decodes to RGB.

  Transparent pixels become white, or keep their color with alpha="ignore".
  """
  if alpha not in ("white", "ignore"):
    raise UserError(f"decode: alpha must be white or ignore; got {alpha!r}.")
  image = images.decode(record["image"], near=near, alpha=alpha == "ignore")
  return record | {"image": image[..., :3]}


def decode_rgba(record):
  """Decodes to RGBA, for `background`."""
  return record | {"image": images.decode(record["image"], alpha=True)}


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
  """Resizes to size x size, or to (h, w), without keeping the aspect ratio."""
  h, w = (size, size) if isinstance(size, int) else size
  if not antialias:
    return _resize_without_antialias(record, h, w, method)
  return _with_pil(record, lambda i: i.resize((w, h), _FILTERS[method]))


def resize_small(record, size, method="bilinear"):
  """Resizes the smaller side to `size`, keeping the aspect ratio."""
  h, w = record["image"].shape[:2]
  new = (round(w * size / min(h, w)), round(h * size / min(h, w)))
  return _with_pil(record, lambda i: i.resize(new, _FILTERS[method]))


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


def color_jitter(
    record, rng, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
):
  """Changes brightness, contrast, saturation and hue by random amounts.

  An argument x means a factor from 1 - x to 1 + x. For hue, it means a rotation
  by up to x of the circle.
  """
  image = _rgb(record)
  matrix, offset = np.eye(3), 0.0
  if brightness:
    matrix = matrix * rng.uniform(1 - brightness, 1 + brightness)
  if contrast:
    factor = rng.uniform(1 - contrast, 1 + contrast)
    gray = _LUMA @ matrix @ cv2.mean(image)[:3]
    matrix, offset = factor * matrix, (1 - factor) * gray
  if saturation:
    # The offset is a gray, which saturation and hue leave unchanged.
    matrix = _saturate(rng.uniform(1 - saturation, 1 + saturation)) @ matrix
  if hue:
    matrix = _turn_hue(2 * np.pi * rng.uniform(-hue, hue)) @ matrix
  colors = np.column_stack([matrix, np.full(3, offset)])
  return record | {"image": cv2.transform(image, colors)}


def blur(record, rng, radius=1.0, p=0.5):
  """Applies a Gaussian blur of up to `radius` pixels with probability p."""
  if rng.random() >= p:
    return record
  image = np.ascontiguousarray(record["image"])
  sigma = max(rng.uniform(0, radius), 1e-6)
  return record | {"image": cv2.GaussianBlur(image, (0, 0), sigma)}


def grayscale(record, rng, p=0.1):
  """Removes the color with probability p."""
  if rng.random() >= p:
    return record
  return record | {"image": cv2.transform(_rgb(record), _saturate(0.0))}


def redraw(record, rng, p=0.5, strength=1.0):
  """Adds or removes outlines with probability p.

  Half of the time, dark lines of up to two pixels are painted over; otherwise
  edges are darkened by up to `strength`. This makes line drawings and flat
  drawings more alike.
  """
  if rng.random() >= p:
    return record
  image = np.ascontiguousarray(record["image"])
  square = np.ones((3, 3), np.uint8)
  if rng.random() < 0.5:
    return record | {"image": cv2.dilate(image, square)}
  edges = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, square)
  amount = rng.uniform(0, strength)
  return record | {"image": cv2.addWeighted(image, 1.0, edges, -amount, 0.0)}


def copy(record, inkey, outkey):
  """Stores the value of `inkey` under `outkey` as well."""
  return record | {outkey: record[inkey]}


def choice(record, rng, *inkeys, outkey="text"):
  """Stores the value of a random one of `inkeys` under `outkey`."""
  return record | {outkey: record[inkeys[rng.integers(len(inkeys))]]}


def pick(record, rng, key, outkey="text"):
  """Stores a random one of the texts listed under `key` under `outkey`.

  A text that is not in a list is taken as it is.
  """
  texts = record[key]
  texts = [texts] if isinstance(texts, str) else texts
  if not isinstance(texts, list | tuple | np.ndarray):
    raise UserError(f"pick takes a list of texts; {key!r} is {named(texts)}.")
  if not len(texts):
    raise UserError(
        f"pick takes a list of texts; {key!r} is empty. Leave such examples"
        " out."
    )
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


def _rgb(record):
  image = np.ascontiguousarray(record["image"])
  if image.shape[2:] != (3,):
    raise UserError(
        f"Colors need RGB; got pixels of shape {image.shape[2:]}. Put decode or"
        " background before."
    )
  return image


def _saturate(factor):
  """Returns the matrix that scales the distance of colors from their gray."""
  return factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))


def _turn_hue(angle):
  """Returns the matrix that rotates colors about gray in YIQ, keeping luma."""
  to_yiq = np.stack([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
  return np.linalg.solve(to_yiq, turn @ to_yiq)


def _resize_without_antialias(record, h, w, method):
  """Resizes by bilinear interpolation without antialiasing.

  TensorFlow's resize does this by default, and so does big_vision's. Both
  truncate fractional byte values.
  """
  if method != "bilinear":
    raise UserError(
        f"resize without antialias must be bilinear; got {method!r}."
    )
  image = np.ascontiguousarray(record["image"], dtype=np.float32)
  image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
  # Interpolating between four equal bytes may round to just below them. The
  # margin keeps truncation from turning that into the next lower byte.
  return record | {"image": (image + 1e-3).astype(np.uint8)}


def _with_pil(record, function: Callable[[Image.Image], Image.Image]):
  image = function(Image.fromarray(np.ascontiguousarray(record["image"])))
  return record | {"image": np.asarray(image)}


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
    color_jitter,
    blur,
    grayscale,
    redraw,
    pick_crop,
)
ON_ANYTHING = (copy, choice, pick, keep, lower, strip_punctuation)
OPS = {op.__name__: op for op in (*ON_IMAGES, *ON_ANYTHING)}


def is_random(name: str) -> bool:
  """Whether an operation takes a random generator, `rng`."""
  return name in OPS and "rng" in inspect.signature(OPS[name]).parameters
