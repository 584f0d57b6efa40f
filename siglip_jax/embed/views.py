"""Images of examples by number, to be encoded rather than trained on.

What cannot be read is skipped: with another image in its place, a text would
have a wrong one for good.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

from absl import logging
import grain
import numpy as np

from siglip_jax.data import embeddings
from siglip_jax.data import pipeline
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

Example = tuple[int, np.ndarray, bytes]


class Crops:
  """Example number to images.

  Args:
    source: the examples.
    pp: preprocessing, ending in value_range.
    side: of the images it must make, pixels.
    crops: images an example, each with a random generator made of (seed,
      number, crop); 0 is one image as an evaluation sees it.
    seed: of all that is random.

  Attributes:
    count: images an example, one or more.
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

  @property
  def value_range(self) -> tuple[float, float]:
    """Of the images on the device."""
    assert self._pp.value_range is not None, self._pp.spec
    return self._pp.value_range

  def __call__(self, number: int) -> Example:
    """Number, images, and the packed rest; number -1 where unreadable.

    Raises:
      UserError: the preprocessing makes images of another shape.
    """
    record = self.source[number]
    try:
      begun = self._pp.begin(record)
      made = [
          self._pp.finish(begun, np.random.default_rng(seed))["image"]
          for seed in self._seeds(number)
      ]
    except ImageError as e:
      logging.warning("Skipped %s: %s", self.source.key(number), e)
      return self.padding()
    for image in made:
      if image.shape != self._shape:
        raise UserError(
            f"Images must be {self._shape}, as config.image_size says;"
            f" {self._pp.spec!r} makes {self.source.key(number)}"
            f" {image.shape}."
        )
    return number, np.stack(made), embeddings.pack_rest(record)

  def padding(self) -> Example:
    """In the place of an example that is not there."""
    return -1, np.zeros((self.count, *self._shape), np.uint8), b""

  def _seeds(self, number: int) -> list:
    if not self._crops:
      return [0]  # as everywhere in evaluation
    return [(self._seed, number, crop) for crop in range(self._crops)]


class _Slots:
  """A place in a batch to its example; -1 is padding."""

  def __init__(self, make: Crops, numbers: np.ndarray):
    self._make, self._numbers = make, numbers

  def __call__(self, slot: int) -> Example:
    number = int(self._numbers[slot])
    return self._make(number) if number >= 0 else self._make.padding()


def batches(
    make: Crops,
    parts: Iterable[np.ndarray],
    size: int,
    *,
    num_threads: int = 2,
    num_workers: int = 0,
) -> Iterator[dict]:
  """Batches of `size` examples, each of one part, the last of a part padded.

  Args:
    make: number to images.
    parts: numbers of examples.
    size: examples a batch.
    num_threads: that read and preprocess.
    num_workers: processes that do so, instead; each has all the threads.

  Yields:
    "images" (size * make.count, H, W, 3), "keys" (size,) with -1 for what is
    not there, and "records", the packed rest.
  """
  padded = [np.pad(p, (0, -len(p) % size), constant_values=-1) for p in parts]
  numbers = np.concatenate([np.zeros(0, int), *padded])
  found = grain.MapDataset.range(len(numbers)).map(_Slots(make, numbers))
  found = found.batch(size, batch_fn=_stack)
  return pipeline.iterate(found, num_threads, num_workers)


def _stack(examples: Sequence[Example]) -> dict:
  keys, images, records = zip(*examples, strict=True)
  return {
      "keys": np.array(keys),
      "images": np.concatenate(images),
      "records": list(records),
  }
