"""Class names in sentences."""

from collections.abc import Callable
from collections.abc import Sequence

from jaxtyping import Float
import numpy as np

PHOTO = (
    "{}",
    "a photo of a {}.",
    "a picture of the {}.",
    "a close-up of a {}.",
    "a drawing of a {}.",
)


def ensemble(
    encode_texts: Callable[[Sequence[str]], Float[np.ndarray, "N D"]],
    names: Sequence[str],
    templates: Sequence[str],
) -> Float[np.ndarray, "C D"]:
  """One embedding a class: normalised, averaged over templates, normalised."""
  texts = [t.replace("{}", name) for name in names for t in templates]
  z = encode_texts(texts).reshape(len(names), len(templates), -1)
  mean = _normalise(z).mean(axis=1)
  return _normalise(mean)


def _normalise(z: np.ndarray) -> np.ndarray:
  return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-8)
