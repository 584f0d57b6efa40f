"""Hashes of images, by which copies are found: of the bytes and of the look."""

from collections.abc import Callable
from concurrent import futures
import hashlib
from typing import Any

import cv2
from jaxtyping import Bool
import numpy as np

from siglip_jax.data import opening
from siglip_jax.data.images import ImageError
from siglip_jax.data.images import decode
from siglip_jax.errors import UserError

_THREADS = 16  # decode, or wait for storage, together
_CHUNK = 256  # records, of which the images are in memory together
_SIDE = 32  # pixels of the small image
_LOW = 8  # frequencies in each direction


def sha256(image: bytes) -> bytes:
  """Returns the first 16 bytes of the SHA-256 of a file."""
  return hashlib.sha256(image).digest()[:16]


def perceptual(image: bytes) -> int:
  """Returns 64 bits of which few differ if two images look alike.

  Each bit is whether one of the 64 lowest frequencies of the cosine transform
  of the image, in gray at 32 x 32 pixels, is above their median.

  Raises:
    ImageError: the image cannot be decoded.
  """
  gray = cv2.cvtColor(decode(image, near=2 * _SIDE), cv2.COLOR_RGB2GRAY)
  small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
  low = cv2.dct(small.astype(np.float32))[:_LOW, :_LOW].ravel()
  bits = low > np.median(low[1:])  # the first is the mean: it says nothing
  return int.from_bytes(np.packbits(bits).tobytes(), "big")


# Name -> the hash of an image, and the dtype of many.
HASHES: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "sha256": (sha256, "S16"),
    "phash": (perceptual, "<u8"),
}


def of_source(
    source: Any, by: str
) -> tuple[np.ndarray, Bool[np.ndarray, " N"]]:
  """Returns the hash of each image of a source, and which could be read.

  Args:
    source: a source whose images are files.
    by: a key of HASHES.

  Raises:
    UserError: the source has no images, as one of embeddings.
  """
  function, dtype = HASHES[by]

  def hashed(index: int) -> tuple[Any, bool]:
    try:
      image = source[index]["image"]
      if not isinstance(image, bytes):
        raise UserError(
            f"Hashes are of image files; {source.key(index)} has none. Compare"
            " embeddings with --by=embeddings."
        )
      return function(image), True
    except (OSError, ImageError):
      return np.zeros((), dtype).item(), False

  count = len(source)
  starts = range(0, count, _CHUNK)
  parts = [range(s, min(s + _CHUNK, count)) for s in starts]
  hashes = np.zeros(count, dtype)
  readable = np.zeros(count, bool)
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    what = "Hashing images"
    for part in opening.track(parts, what, total=count, size=len):
      values = pool.map(hashed, part)
      for i, (value, whole) in zip(part, values, strict=True):
        hashes[i], readable[i] = value, whole
  return hashes, readable
