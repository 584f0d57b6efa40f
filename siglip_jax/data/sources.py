"""Random access to records, in whatever form they are stored.

A record is a flat dict. "image" is an encoded image, or its embeddings; texts
are strings.
"""

from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import hashlib
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from jaxtyping import Int
import numpy as np

from siglip_jax.data import opening
from siglip_jax.data.images import ImageError
from siglip_jax.data.ops import named
from siglip_jax.errors import UserError

_THREADS = 16  # wait for a network file system together
_TRIED = 16  # records, of which one must be readable
_CHUNK = 256  # records, of which the images are in memory together


class BadValue(UserError):
  """A record does not have a key that is needed, or a value of its kind."""


@runtime_checkable
class Source(Protocol):
  """A random-access source of records.

  A source may also have `values(key)`, `image_ids()`, `digest()` and
  `substitute(index, rng)`; the functions of these names below use them, or do
  without. `values_of(key, indices)` is the column of some records alone. One
  whose records hold several texts has `draw(record, rng)`, which returns a
  record with one of them under "text".

  One that lies in blocks, consecutive records that are read together, has
  `block_starts`, the index of each block's first record and their number. If
  blocks are fetched before records are read, it has `block_bytes(block)`,
  `write_block(block, path)` and `use_blocks(folder)`; see `blocks`.
  """

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    ...

  def key(self, index: int) -> str:
    """Returns a readable name of a record, for messages."""
    ...


def values(source: Source, key: str) -> list[Any]:
  """Returns the value under `key` of each record, without images if it can.

  Raises:
    BadValue: when a record does not have the key.
    UserError: when a record cannot be read.
  """
  read = getattr(source, "values", None)
  column = read(key) if read else None
  return list(_from_records(source, key)) if column is None else column


def _from_records(source: Source, key: str) -> Iterator[Any]:
  """Yields values of whole records, for sources that cannot do better."""

  def value(index: int) -> Any:
    try:
      record = source[index]
    except (OSError, ImageError) as e:
      raise UserError(
          f"{source.key(index)} cannot be read: {e}. Repair or remove it."
      ) from None
    if key not in record:
      raise BadValue(
          f"{key!r} must be in every record; {source.key(index)} has"
          f" {', '.join(record)}."
      )
    return record[key]

  parts = [
      range(start, min(start + _CHUNK, len(source)))
      for start in range(0, len(source), _CHUNK)
  ]
  what = f"Reading {key!r}, records"
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for part in opening.track(parts, what, total=len(source), size=len):
      yield from pool.map(value, part)


def captions(source: Source, key: str) -> list[str | tuple[str, ...]]:
  """Returns the text, or the texts, under `key` of each record.

  Raises:
    BadValue: when a record does not have the key, or neither a text nor a list
      of texts there.
    UserError: when a record cannot be read.
  """
  column = []
  for index, value in enumerate(values(source, key)):
    texts = value if isinstance(value, list | tuple) else (value,)
    if not texts or not all(isinstance(t, str) for t in texts):
      expected = "a text, or a list of texts that is not empty"
      raise bad_value(source, key, index, expected, value)
    column.append(value if isinstance(value, str) else tuple(texts))
  return column


def bad_value(
    source: Source, key: str, index: int, expected: str, value: Any
) -> BadValue:
  """Returns the error about the value under `key` of a record."""
  return BadValue(
      f"{key!r} must be {expected}; {source.key(index)} has {named(value)}."
  )


def image_ids(source: Source) -> Sequence[Hashable]:
  """Returns one value for each record, equal where records share an image."""
  ids = getattr(source, "image_ids", None)
  return ids() if ids else range(len(source))


def distinct_images(
    source: Source,
) -> tuple[Source, Int[np.ndarray, " N"] | None]:
  """Returns a source with each image once, and each record's row in it.

  The rows are None, and the source is the same, if no records share an image.
  """
  first: dict[Hashable, int] = {}
  indices = []
  rows = np.zeros(len(source), np.int64)
  for index, image in enumerate(image_ids(source)):
    if image not in first:
      first[image] = len(first)
      indices.append(index)
    rows[index] = first[image]
  if len(indices) == len(source):
    return source, None
  return Subset(source, indices), rows


def readable_record(source: Source) -> tuple[int, dict[str, Any]]:
  """Returns the first of a few records that can be read, and its index.

  Raises:
    ImageError: none of them can; the message is about the first.
  """
  problem: ImageError | None = None
  for index in range(min(_TRIED, len(source))):
    try:
      return index, source[index]
    except ImageError as e:  # training replaces and counts it
      problem = problem or e
  raise problem or ImageError("there are no records")


def substitute(source: Source, index: int, rng: np.random.Generator) -> int:
  """Returns the index of a record to read instead of an unreadable one."""
  own = getattr(source, "substitute", None)
  return own(index, rng) if own else int(rng.integers(len(source)))


def digest(source: Source) -> str:
  """Returns a short digest, which differs where the data differ.

  It covers the keys and texts of a folder, and the files and sizes of prepared
  data; of other sources only their length.
  """
  own = getattr(source, "digest", None)
  if own:
    return own()
  return hashlib.sha256(str(len(source)).encode()).hexdigest()[:12]


class Subset:
  """A source of some of another one's records.

  Args:
    source: the other source.
    indices: the indices of the records in it.
  """

  def __init__(self, source: Source, indices: Sequence[int]):
    self._source, self._indices = source, indices
    if draw := getattr(source, "draw", None):
      self.draw = draw

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[int(self._indices[index])]

  def key(self, index: int) -> str:
    """Returns the record's name in the other source."""
    return self._source.key(int(self._indices[index]))

  def values(self, key: str) -> list[Any] | None:
    """Returns the value under `key` of each record, if the other can."""
    read = getattr(self._source, "values_of", None)
    return read(key, self._indices) if read else None

  def image_ids(self) -> Sequence[Hashable]:
    """Returns the image ids of the records in the other source."""
    ids = image_ids(self._source)
    return [ids[int(index)] for index in self._indices]

  def digest(self) -> str:
    """Returns a digest of the other source and of the indices."""
    indices = np.asarray(self._indices, "<i8").tobytes()
    words = digest(self._source).encode() + indices
    return hashlib.sha256(words).hexdigest()[:12]
