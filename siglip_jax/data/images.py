"""Decoding of image files into upright RGB or RGBA arrays."""

import contextlib
import io

from jaxtyping import UInt8
import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own limit; 0.25 GiB as RGB
# Raster formats only: some others run programs, as EPS runs Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class ImageError(ValueError):
  """The bytes are not an image, or are one that must not be decoded."""


def decode(
    data: bytes | Image.Image,
    *,
    alpha: bool = False,
    near: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "H W C"]:
  """Decodes an image to 8 bits per channel and applies its EXIF rotation.

  Args:
    data: the file's bytes, or an open image, which is left open. Only the first
      frame of an animation is decoded.
    alpha: whether to return RGBA. Otherwise the result is RGB, with transparent
      pixels made white.
    near: a side in pixels that is enough. JPEGs are decoded at the smallest DCT
      scale above it, which is up to twice as fast.
    max_pixels: limit on width times height, checked before decoding.

  Raises:
    ImageError: when the data are empty, truncated, not an image, not in one of
      `FORMATS`, or over max_pixels.
  """
  try:
    with _opened(data) as image:
      width, height = image.size
      if not width * height:
        raise ImageError("it has no pixels")
      if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are over the limit of {max_pixels}"
        )
      if near is not None and image is not data:
        image.draft(None, (near, near))
      image.load()
      image = ImageOps.exif_transpose(image)
      image = _as_rgba(image) if alpha else _on_white(image)
      return np.asarray(image)
  except ImageError:
    raise
  # Pillow's plugins may raise any exception on malformed bytes.
  except Exception as e:  # pylint: disable=broad-except
    reason = "no PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
    if not isinstance(e, UnidentifiedImageError):
      reason = f"{type(e).__name__}: {e}"
    raise ImageError(reason) from None


def _opened(data: bytes | Image.Image):
  if isinstance(data, Image.Image):
    return contextlib.nullcontext(data)
  if not data:
    raise ImageError("the file is empty")
  return Image.open(io.BytesIO(data), formats=FORMATS)


def composite(
    rgba: UInt8[np.ndarray, "H W 4"], color: tuple[int, int, int]
) -> UInt8[np.ndarray, "H W 3"]:
  """Composites an RGBA image onto a plain background."""
  alpha = rgba[..., 3:].astype(np.uint16)
  mixed = rgba[..., :3] * alpha + np.array(color, np.uint16) * (255 - alpha)
  return ((mixed + 127) // 255).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
  if image.has_transparency_data:
    rgba = np.asarray(_as_rgba(image))
    return Image.fromarray(composite(rgba, (255, 255, 255)))
  return _eight_bit(image).convert("RGB")


def _as_rgba(image: Image.Image) -> Image.Image:
  return _eight_bit(image).convert("RGBA")


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
