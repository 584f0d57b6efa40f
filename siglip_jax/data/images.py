"""Decoding of image files into upright RGB or RGBA arrays.

Pillow opens every file, and decides which files are images. simplejpeg reads
the pixels of plain JPEGs faster than Pillow does, with the same result: both
are libjpeg-turbo. Pillow reads all others, and those that simplejpeg finds at
fault.
"""

import contextlib
import io
from typing import Any
from typing import Literal
from typing import overload

import cv2
from jaxtyping import UInt8
import numpy as np
from PIL import ExifTags
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError
import simplejpeg

MAX_PIXELS = 89_478_485  # Pillow's own limit; 0.25 GiB as RGB
# Raster formats only: some others run programs, as EPS runs Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# libjpeg scales in eighths. Below this side, two scales give the same size.
_EIGHTHS = 8


class ImageError(ValueError):
  """The bytes are not an image, or are one that must not be decoded."""


@overload
def decode(
    data: bytes | Image.Image,
    *,
    alpha: str = ...,
    near: int | None = ...,
    max_pixels: int = ...,
    pillow: Literal[False] = ...,
) -> UInt8[np.ndarray, "H W C"]:
  ...


@overload
def decode(
    data: bytes | Image.Image,
    *,
    alpha: str = ...,
    near: int | None = ...,
    max_pixels: int = ...,
    pillow: Literal[True],
) -> Image.Image:
  ...


def decode(
    data: bytes | Image.Image,
    *,
    alpha: str = "white",
    near: int | None = None,
    max_pixels: int = MAX_PIXELS,
    pillow: bool = False,
) -> UInt8[np.ndarray, "H W C"] | Image.Image:
  """Decodes an image to 8 bits per channel and applies its EXIF rotation.

  Args:
    data: the file's bytes, or an open image, which is left open. Only the first
      frame of an animation is decoded.
    alpha: what becomes of transparency. "keep" returns RGBA. "white" and
      "ignore" return RGB: transparent pixels are made white, or keep their
      color.
    near: a side in pixels that is enough. JPEGs are decoded at the smallest DCT
      scale of 1/8, 1/4, 1/2 and 1 above it, which is up to twice as fast.
    max_pixels: limit on width times height, checked before decoding.
    pillow: whether to return an image of Pillow instead of an array, for an
      operation of Pillow that follows; this saves two copies.

  Raises:
    ImageError: when the data are empty, truncated, not an image, not in one of
      `FORMATS`, or over max_pixels.
  """
  try:
    with _opened(data) as image:
      _check_size(*image.size, max_pixels)
      if image is not data:
        if near is not None:
          image.draft(None, (near, near))
        kind = "RGBA" if alpha == "keep" else "RGBX" if pillow else "RGB"
        pixels = _plain_jpeg(data, image, kind)
        if pixels is not None:
          return _wrapped(pixels) if kind == "RGBX" else pixels
      image.load()
      image = _COLORS[alpha](_upright(image))
      return image if pillow else np.asarray(image)
  except ImageError:
    raise
  # Pillow's plugins may raise any exception on malformed bytes.
  except Exception as e:  # pylint: disable=broad-except
    reason = "no PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
    if not isinstance(e, UnidentifiedImageError):
      reason = f"{type(e).__name__}: {e}"
    raise ImageError(reason) from None


def resize(
    image: np.ndarray | Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
) -> UInt8[np.ndarray, "..."]:
  """Resizes 8-bit pixels to (width, height) with one of Pillow's filters."""
  return np.asarray(_as_pillow(image).resize(size, resample))


def composite(
    rgba: UInt8[np.ndarray, "H W 4"], color: tuple[int, int, int]
) -> UInt8[np.ndarray, "H W 3"]:
  """Composites an RGBA image onto a plain background."""
  alpha = rgba[..., 3:].astype(np.uint16)
  mixed = rgba[..., :3] * alpha + np.array(color, np.uint16) * (255 - alpha)
  return ((mixed + 127) // 255).astype(np.uint8)


def _opened(data: bytes | Image.Image):
  if isinstance(data, Image.Image):
    return contextlib.nullcontext(data)
  if not data:
    raise ImageError("the file is empty")
  return Image.open(io.BytesIO(data), formats=FORMATS)


def _check_size(width: int, height: int, max_pixels: int) -> None:
  if not width * height:
    raise ImageError("it has no pixels")
  if width * height > max_pixels:
    raise ImageError(
        f"{width} x {height} pixels are over the limit of {max_pixels}"
    )


def _plain_jpeg(
    data, image: Image.Image, kind: str
) -> UInt8[np.ndarray, "H W C"] | None:
  """Returns the pixels of a JPEG that needs neither a turn nor repair.

  None stands for any other image, also for one that is damaged: whether that is
  an error is for Pillow to say. The GIL is released meanwhile.

  Args:
    data: the file's bytes.
    image: the same, opened by Pillow. Its size is that of the pixels.
    kind: RGB, RGBA, or RGBX, which has a fourth byte without a meaning.
  """
  width, height = image.size
  if image.format != "JPEG" or image.mode not in ("RGB", "L"):
    return None
  if max(width, height) < _EIGHTHS or _orientation(image) in _TURNS:
    return None
  try:
    pixels = simplejpeg.decode_jpeg(
        data, kind, min_height=height, min_width=width, strict=True
    )
  except ValueError:
    return None
  return pixels if pixels.shape[:2] == (height, width) else None


def _wrapped(pixels: UInt8[np.ndarray, "H W 4"]) -> Image.Image:
  """Returns an RGB image of Pillow in the same memory.

  Pillow keeps RGB in four bytes, too, but only offers to wrap RGBX; changing
  the mode, as its `putalpha` does, saves the resize of a fourth channel.
  """
  height, width = pixels.shape[:2]
  size = (width, height)
  image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
  image.im.setmode("RGB")
  image._mode = "RGB"  # pylint: disable=protected-access
  return image


def _as_pillow(image: np.ndarray | Image.Image) -> Image.Image:
  """Returns pixels as an image of Pillow, which may share their memory."""
  if isinstance(image, Image.Image):
    return image
  if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
    # Pillow keeps RGB in four bytes a pixel; OpenCV fills them up faster.
    return _wrapped(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA))
  return Image.fromarray(np.ascontiguousarray(image))


_TURNS = range(2, 9)  # values of EXIF's orientation, without 1 for upright


def _orientation(image: Image.Image) -> Any:
  return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright(image: Image.Image) -> Image.Image:
  # exif_transpose copies an image even if there is nothing to turn.
  if _orientation(image) in _TURNS:
    return ImageOps.exif_transpose(image)
  return image


def _on_white(image: Image.Image) -> Image.Image:
  if image.has_transparency_data:
    rgba = np.asarray(_as_rgba(image))
    return Image.fromarray(composite(rgba, (255, 255, 255)))
  return _as_rgb(_eight_bit(image))


def _without_alpha(image: Image.Image) -> Image.Image:
  return image if image.mode == "RGB" else _as_rgb(_as_rgba(image))


def _as_rgba(image: Image.Image) -> Image.Image:
  return _eight_bit(image).convert("RGBA")


def _as_rgb(image: Image.Image) -> Image.Image:
  return image if image.mode == "RGB" else image.convert("RGB")


_COLORS = {"white": _on_white, "ignore": _without_alpha, "keep": _as_rgba}


def _eight_bit(image: Image.Image) -> Image.Image:
  """Scales modes of more than 8 bits to 8; Pillow's convert clips them."""
  if image.mode.startswith("I"):
    x = np.clip(np.asarray(image), 0, 65535) // 257
    return Image.fromarray(x.astype(np.uint8))
  if image.mode == "F":
    x = np.nan_to_num(np.asarray(image), nan=0.0)
    x = x * (255 if x.max() <= 1 else 1)
    return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))
  return image
