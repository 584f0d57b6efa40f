"""A source whose texts stand under other keys, or under several."""

from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
from typing import Any

import numpy as np

from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.sources import Source
from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError


class Captioned:
  """A source's records, with the texts of some of their keys as their "text".

  Args:
    source: the other source.
    texts: the keys, with weights.

  Raises:
    UserError: the first record that can be read has none of the keys.
  """

  def __init__(self, source: Source, texts: Texts):
    self._source, self._texts = source, texts
    try:
      index, record = sources.readable_record(source)
    except ImageError:
      return  # who reads the records says so
    if not any(key in record for key in texts.keys):
      raise UserError(
          f"Records must have {' or '.join(map(repr, texts.keys))}, as `text`"
          f" or `texts` says; {source.key(index)} has {', '.join(record)}."
      )

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._source[index]
    return record | {"text": self._texts.all(record)}

  def draw(
      self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns a record with one of its texts."""
    return self._texts.draw(record, rng)

  def key(self, index: int) -> str:
    """Returns the record's name in the other source."""
    return self._source.key(index)

  def values(self, key: str) -> list[Any]:
    """Returns the value under `key` of each record."""
    if key != "text":
      return sources.values(self._source, key)
    columns = [sources.values(self._source, name) for name in self._texts.keys]
    rows = zip(*columns, strict=True)
    names = self._texts.keys
    return [self._texts.all(dict(zip(names, row, strict=True))) for row in rows]

  def image_ids(self) -> Sequence[Hashable]:
    """Returns the image ids of the other source."""
    return sources.image_ids(self._source)

  def digest(self) -> str:
    """Returns a digest of the other source and of the keys."""
    words = (sources.digest(self._source), sorted(self._texts.weights.items()))
    return hashlib.sha256(repr(words).encode()).hexdigest()[:12]
