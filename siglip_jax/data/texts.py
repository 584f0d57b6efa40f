"""The texts of a record: which of them it may be trained on, and the draw.

A record may hold several texts: under several keys, such as the alt text and
a generated caption, and in lists, such as the five captions of an image of
COCO. Training draws one of them for each example, by the example's generator;
evaluations take them all.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from siglip_jax.data.ops import named
from siglip_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Texts:
  """The keys of a record's texts, with the weights they are drawn by.

  Attributes:
    weights: key -> weight. The weights need not add up to 1.
  """

  weights: Mapping[str, float]

  @classmethod
  def of(
      cls,
      text: str | None,
      texts: Mapping[str, float] | None,
      default: str = "text",
  ) -> "Texts":
    """Returns what `text` or `texts` of a config says.

    Args:
      text: the only key.
      texts: key -> weight, instead of `text`.
      default: the key if neither is given.

    Raises:
      UserError: both are given, or a weight is not a positive number.
    """
    if text is not None and texts is not None:
      raise UserError(
          "Data take either `text`, one key, or `texts`, keys with weights; got"
          f" text={text!r} and texts={dict(texts)!r}."
      )
    weights = {text or default: 1.0} if texts is None else dict(texts)
    for key, weight in weights.items():
      if not isinstance(key, str) or not key:
        raise UserError(f"The keys of `texts` must be names; got {key!r}.")
      number = isinstance(weight, int | float) and not isinstance(weight, bool)
      if not number or not 0 < weight < math.inf:
        raise UserError(
            "`texts` must give each key a positive weight, as in"
            f" {{'txt': 0.3, 'json:caption': 0.7}}; {key!r} has {weight!r}."
        )
    if not weights:
      raise UserError("`texts` must name at least one key; it is empty.")
    return cls(weights)

  @property
  def keys(self) -> tuple[str, ...]:
    """The keys, in order."""
    return tuple(self.weights)

  def all(self, record: Mapping[str, Any]) -> str | list[str]:
    """Returns the text of a record, or the list of all that are not empty.

    Raises:
      UserError: a value is neither a text nor a list of texts.
    """
    values = [record.get(key) for key in self.weights]
    lists = [_listed(k, v) for k, v in zip(self.weights, values, strict=True)]
    texts = [text for several in lists for text in several]
    if len(values) == 1 and isinstance(values[0], str):
      return texts[0] if texts else []
    return texts

  def draw(
      self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns a record with one of its texts under "text".

    A key is drawn by its weight among those that have a text, and then one of
    its texts, all with the same probability. If there are none, the text is "".

    Raises:
      UserError: a value is neither a text nor a list of texts.
    """
    lists = {key: _listed(key, record.get(key)) for key in self.weights}
    lists = {key: texts for key, texts in lists.items() if texts}
    if not lists:
      return {**record, "text": ""}
    names = list(lists)
    texts = lists[names[0]]
    if len(names) > 1:
      bounds = np.cumsum([self.weights[name] for name in names])
      number = np.searchsorted(bounds, rng.random() * bounds[-1], side="right")
      texts = lists[names[min(int(number), len(names) - 1)]]
    number = int(rng.integers(len(texts))) if len(texts) > 1 else 0
    return {**record, "text": texts[number]}


def _listed(key: str, value: Any) -> list[str]:
  """Returns the texts of a value that are not blank."""
  if value is None:
    return []
  texts = value
  if isinstance(value, str):
    texts = [value]
  elif isinstance(value, np.ndarray):
    texts = value.tolist()
  if not isinstance(texts, list | tuple):
    raise UserError(
        f"A text must be a string or a list of strings; {key!r} is"
        f" {named(value)}. Name another key as `text`."
    )
  for text in texts:
    if text is not None and not isinstance(text, str):
      raise UserError(
          f"A text must be a string or a list of strings; {key!r} has"
          f" {named(text)}. Name another key as `text`."
      )
  return [text for text in texts if text and not text.isspace()]
