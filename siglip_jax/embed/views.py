"""Images of examples, for encoding rather than training.

An unreadable image is skipped, not replaced as in training: the stored
embeddings would pair its text with a wrong image forever.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from siglip_jax.data import embeddings
from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.loader import chunks
from siglip_jax.data.loader.batches import Batches
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

Example = tuple[int, np.ndarray, bytes]  # number, images, packed rest


class Crops:
  """A loader of the images of an example, by the example's number.

  Args:
    source: the examples; their numbers are its indices.
    pp: preprocessing, ending in value_range.
    side: side of the images that `pp` must make, in pixels.
    crops: number of images per example, each made with a random generator
      seeded by (seed, number, crop). 0 makes one image, as evaluation does.
    seed: seed of the crops.

  Attributes:
    count: number of images per example, at least 1.
  """

  def __init__(
      self,
      source: Source,
      pp: Preprocess,
      *,
      side: int,
      crops: int = 0,
      seed: int = 0,
  ):
    self.source, self._pp, self._shape = source, pp, (side, side, 3)
    self._crops, self._seed, self.count = crops, seed, max(crops, 1)
    _, self._image_ids = sources.distinct_images(source)

  @property
  def value_range(self) -> tuple[float, float]:
    """The value range of the images on the device."""
    assert self._pp.value_range is not None, self._pp.spec
    return self._pp.value_range

  def __call__(self, number: int) -> Example:
    """Returns number, images and packed rest; number -1 if unreadable.

    Raises:
      UserError: when the preprocessing makes images of another shape.
    """
    try:
      record = self.source[number]
      prepared = self._pp.begin(record)
      images = [
          self._pp.finish(prepared, np.random.default_rng(seed))["image"]
          for seed in self._seeds(number)
      ]
    except ImageError as e:
      logging.warning("Skipped %s: %s", self.source.key(number), e)
      return self.padding()
    for image in images:
      if image.shape != self._shape:
        raise UserError(
            f"Images must be {self._shape}, as config.image_size says;"
            f" {self._pp.spec!r} makes {self.source.key(number)}"
            f" {image.shape}."
        )
    if self._image_ids is not None:  # an image that several examples share
      image_id = int(self._image_ids[number])
      record = record | {embeddings.IMAGE_ID: image_id}
    return number, np.stack(images), embeddings.pack_rest(record)

  def padding(self) -> Example:
    """Returns the example that fills an empty place in a batch."""
    return -1, np.zeros((self.count, *self._shape), np.uint8), b""

  def _seeds(self, number: int) -> list:
    if not self._crops:
      return [0]  # the seed of all evaluation
    return [(self._seed, number, crop) for crop in range(self._crops)]


class _Places:
  """The examples of batches, by their places; number -1 is padding."""

  def __init__(self, make: Crops, numbers: np.ndarray, rows: int):
    self._make, self._numbers = make, numbers
    self.rows, self.batches = rows, len(numbers) // rows

  def begin(self, batch: int, row: int) -> chunks.Begun:
    """Reads an example."""
    number = int(self._numbers[batch * self.rows + row])
    make = self._make
    key, images, record = make(number) if number >= 0 else make.padding()
    values = {"keys": np.int64(key), "images": images, "records": record}
    return chunks.Begun(values, number, {})

  def finish(self, begun: Sequence[chunks.Begun]) -> list[dict[str, Any]]:
    """Returns the values of examples."""
    return [dict(one.record) for one in begun]


def batches(
    make: Crops,
    parts: Iterable[np.ndarray],
    size: int,
    *,
    num_threads: int = 2,
    num_workers: int = 0,
) -> Iterator[dict]:
  """Iterates over batches, each of examples from one part.

  The last batch of a part is padded.

  Args:
    make: loader of an example by its number.
    parts: for each part, the numbers of its examples.
    size: number of examples per batch.
    num_threads: number of threads that read and preprocess.
    num_workers: number of worker processes of the loader that read and
      preprocess instead; each has `num_threads` threads.

  Yields:
    "images" of shape (size * make.count, H, W, 3); "keys" of shape (size,), the
    numbers, with -1 for padding and unreadable examples; and "records", the
    packed rest of each example.
  """
  padded = [np.pad(p, (0, -len(p) % size), constant_values=-1) for p in parts]
  numbers = np.concatenate([np.zeros(0, int), *padded])
  places = _Places(make, numbers, size)
  for batch in Batches(
      places, num_threads=num_threads, num_workers=num_workers
  ):
    images = batch["images"]
    yield batch | {"images": images.reshape(-1, *images.shape[2:])}
