"""Preprocessing operations on the colors and the sharpness of an image.

Each takes (record, rng, *arguments), as the operations in `ops.py` do.
"""

import cv2
import numpy as np

from siglip_jax.errors import UserError

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


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
