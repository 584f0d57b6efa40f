"""Records that hold several texts, one of which may be called "text" itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from siglip_jax.data.texts import Texts

_OWN = "column text"  # the value of a column "text", beside the record's texts


def with_text(texts: Texts, record: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a record with its text, or the list of all, under "text".

  Args:
    texts: the keys of the texts.
    record: a record that has their values.
  """
  several = {**record, "text": texts.all(record)}
  if "text" in texts.keys and len(texts.keys) > 1:
    several[_OWN] = record["text"]
  return several


def draw(
    texts: Texts, record: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
  """Returns a record of `with_text` with one of its texts under "text"."""
  if _OWN not in record:
    return texts.draw(record, rng)
  drawn = texts.draw(record | {"text": record[_OWN]}, rng)
  return record | {"text": drawn["text"]}
