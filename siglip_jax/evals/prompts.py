"""Prompt templates: class names in sentences."""

from collections.abc import Callable
from collections.abc import Sequence

from jaxtyping import Float
import numpy as np

from siglip_jax.errors import UserError

NAME = ("{}",)


def check(templates: Sequence[str], who: str) -> None:
  """Raises UserError unless there are templates and each contains {}."""
  bare = [t for t in templates if "{}" not in t]
  if bare or not templates or isinstance(templates, str):
    raise UserError(
        f"Templates of {who} must be a list of sentences with {{}} where the"
        f" name goes; got {bare or templates or 'no template'}."
    )


def ensemble(
    encode_texts: Callable[[list[str]], Float[np.ndarray, "N D"]],
    names: Sequence[str],
    templates: Sequence[str],
) -> Float[np.ndarray, "C D"]:
  """Returns one embedding per class, averaged over templates.

  This follows CLIP, section 3.1.4. Each embedding is normalised before the
  mean, so that all templates weigh the same, and the mean is normalised again.

  Args:
    encode_texts: texts -> their embeddings.
    names: class names.
    templates: prompts; "{}" stands for the class name.
  """
  texts = [t.replace("{}", name) for name in names for t in templates]
  z = encode_texts(texts).reshape(len(names), len(templates), -1)
  return _normalise(_normalise(z).mean(axis=1))


def _normalise(z: np.ndarray) -> np.ndarray:
  return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-8)
