"""Statistics of the captions, told at the start of a run.

Captions that are cut to one sequence of tokens, empty ones, and equal ones in
a batch raise no error: they only keep the loss up. A sample shows them.
"""

from collections import Counter
from collections.abc import Hashable
from collections.abc import Sequence
from concurrent import futures
import dataclasses
from typing import Any

from absl import logging
from jaxtyping import Float
from jaxtyping import Int
import ml_collections
import numpy as np

from siglip_jax.data import ops
from siglip_jax.data import sources
from siglip_jax.data.folders import FolderSource
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import Record
from siglip_jax.data.preprocess import arguments
from siglip_jax.data.preprocess import parse
from siglip_jax.data.preprocess import render
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

SAMPLE = 1000  # captions to read
_THREADS = 16  # readers; on a mounted bucket a read takes tens of milliseconds
_DRAWS = 1000  # simulated batches for each number of equal examples

# Shares above which a warning is due. A tenth of the captions without a text of
# their own is a tenth of the data that teaches nothing.
LOST = 0.1
# Long captions are often cut: what is left of them mostly suffices. If most are
# cut, text_len is probably not meant for these data.
CUT = 0.5
EMPTY = 0.01
# A loss of 0.1 is that of a pair which the model gets right with probability
# 0.9: a floor above that hides how well it learns.
FLOOR = 0.1

# Losses in which every other pair of the batch counts as a negative. A loss
# that is not listed has no formula for its floor here.
_SIGMOID = ("sigmoid", "ring_sigmoid")
_SOFTMAX = ("softmax", "ring_softmax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
  """Statistics of a sample of the captions, as training would tokenize them.

  Attributes:
    examples: number of training examples.
    read: number of captions in the sample.
    cut: number of them that are longer than `text_len` tokens.
    empty: number of them without a token.
    different: number of different captions, as they reach the tokenizer.
    texts: number of different sequences of tokens.
    text_len: tokens of a text.
    batch_size: examples in a batch.
    loss: name of the loss.
    copies: expected number of examples in a batch with a given example's text
      or image, itself included.
    floor: least loss that these copies allow, or None for a loss without a
      formula.
  """

  examples: int
  read: int
  cut: int
  empty: int
  different: int
  texts: int
  text_len: int
  batch_size: int
  loss: str
  copies: float
  floor: float | None

  def summary(self) -> str:
    """Returns two lines for the user."""
    floor = ""
    if self.floor is not None and self.floor >= 0.005:
      floor = f", so the loss {self.loss} cannot fall below {self.floor:.2f}"
    return (
        f"Captions ({self.read:,} of {self.examples:,} read):"
        f" {self.cut / self.read:.1%} cut at text_len = {self.text_len},"
        f" {self.texts:,} different texts left of {self.different:,},"
        f" {self.empty} empty.\n"
        f"A batch of {self.batch_size:,} holds each text or image"
        f" {_number(self.copies)} times on average{floor}."
    )

  def warnings(self) -> list[str]:
    """Returns a sentence for each thing that spoils learning."""
    found = [self._same() or self._long(), self._crowded(), self._missing()]
    return [text for text in found if text]

  def _crowded(self) -> str:
    """Returns a warning of copies in a batch, or nothing."""
    large = self.batch_size > self.examples
    if not large and (self.floor is None or self.floor <= FLOOR):
      return ""
    start = (
        f"A batch of {self.batch_size:,} holds each text or image"
        f" {_number(self.copies)} times on average"
    )
    end = "Lower config.batch_size, or use texts and images that differ."
    if large:
      start = (
          f"config.batch_size = {self.batch_size:,} is more than the"
          f" {self.examples:,} training examples, so a batch holds each text"
          f" or image {_number(self.copies)} times"
      )
      end = "Lower config.batch_size, or add data."
    if self.floor is None:
      return f"{start}. {end}"
    return (
        f"{start}; each copy counts as a negative of the others, so the loss"
        f" {self.loss} cannot fall below about {self.floor:.2f}. {end}"
    )

  def _same(self) -> str:
    """Returns a warning of captions that tokenizing makes equal, or nothing."""
    lost = self.different - self.texts
    if lost <= LOST * self.different:
      return ""
    reason, cure = (
        "the tokenizer does not tell them apart",
        "Train or give a tokenizer that knows their characters.",
    )
    if self.cut >= lost:
      reason = f"{self.cut / self.read:.1%} are cut at {self.text_len} tokens"
      cure = _LONGER
    return (
        f"Of {self.different:,} different captions, tokenizing leaves only"
        f" {self.texts:,}: {reason}. No model can tell the others apart. {cure}"
    )

  def _long(self) -> str:
    """Returns a warning of captions that are cut, or nothing."""
    if self.cut <= CUT * self.read:
      return ""
    return (
        f"{self.cut / self.read:.1%} of the captions are longer than"
        f" {self.text_len} tokens: training never sees their ends. {_LONGER}"
    )

  def _missing(self) -> str:
    """Returns a warning of empty captions, or nothing."""
    if self.empty <= EMPTY * self.read:
      return ""
    return (
        f"{self.empty / self.read:.1%} of the captions are empty, which teaches"
        " that any image fits no text. Remove these examples, or give them"
        " captions."
    )


def _number(copies: float) -> str:
  return f"{copies:.2f}" if copies < 10 else f"{copies:,.0f}"


_LONGER = (
    "Raise text_len, in config.text_len and in both tokenize(max_len=...), or"
    " shorten the captions."
)


def look(
    config: ml_collections.ConfigDict, source: Source, pp: Preprocess
) -> Captions:
  """Returns statistics of a sample of the captions, without decoding images.

  Args:
    config: a validated config; its seed chooses the sample.
    source: the training data, not empty.
    pp: preprocessing for training, which tokenizes.

  Raises:
    UserError: a caption cannot be preprocessed, or none can be read; the
      message names it.
  """
  rng = np.random.default_rng(config.seed)
  total = len(source)
  indices = range(total)
  if total > SAMPLE:
    indices = np.sort(rng.choice(total, SAMPLE, replace=False)).tolist()
  tokenize = _Tokenize(source, pp, config.seed)
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    texts = [t for t in pool.map(tokenize, indices) if t is not None]
  if not texts:
    raise UserError(
        f"No training example can be read: all of {len(indices)} tried are"
        f" missing or damaged, such as {source.key(indices[0])}. Check the"
        " data."
    )
  others = _equal_others(texts) / max(len(texts) - 1, 1)
  copies = 1 + _equal_in_batch(others, total, config.batch_size, rng)
  return Captions(
      examples=total,
      read=len(texts),
      cut=sum(t.cut for t in texts),
      empty=sum(t.empty for t in texts),
      different=len({t.caption for t in texts}),
      texts=len({t.ids for t in texts}),
      text_len=config.text_len,
      batch_size=config.batch_size,
      loss=config.loss.name,
      copies=float(copies.mean()),
      floor=_floor(config.loss, copies),
  )


def report(captions: Captions) -> None:
  """Prints the statistics, and logs the warnings."""
  print(captions.summary())
  for text in captions.warnings():
    logging.warning("%s", text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Text:
  """A caption as training would tokenize it.

  Attributes:
    image: equal where examples share an image.
    caption: the string that is tokenized.
    ids: its tokens without the end-of-sentence token and padding; -1 fills up.
    cut: whether tokens were cut off.
    empty: whether there is no token.
  """

  image: Hashable
  caption: str
  ids: tuple[int, ...]
  cut: bool
  empty: bool


class _Tokenize:
  """The part of a preprocessing string that makes the text, by source index."""

  def __init__(self, source: Source, pp: Preprocess, seed: int):
    assert pp.tokenizer is not None, "config.strings has seen it"
    self._source, self._seed, self._tokenizer = source, seed, pp.tokenizer
    self._images = sources.image_ids(source)
    calls = parse(pp.spec)
    end = [name for name, _, _ in calls].index("tokenize")
    self._options = arguments(*calls[end])
    on_images = {op.__name__ for op in ops.ON_IMAGES} | {"value_range"}
    before = [c for c in calls[:end] if c[0] not in on_images]
    self._pp = Preprocess(render(before)) if before else None

  def __call__(self, index: int) -> _Text | None:
    """Returns the text of an example, or None if its record is unreadable."""
    try:
      record = _record(self._source, index)
      rng = np.random.default_rng([self._seed, index])
      if draw := getattr(self._source, "draw", None):
        record = draw(record, rng)
      if self._pp is not None:
        record = self._pp(record, rng)
      return self._text(self._images[index], record["text"])
    except ImageError:
      return None  # training replaces and counts it
    except (KeyError, TypeError, ValueError) as e:
      reason = f"there is no {e}" if isinstance(e, KeyError) else e
      raise UserError(
          f"Every training example must have a caption that can be tokenized;"
          f" that of {self._source.key(index)} cannot: {reason}"
      ) from None

  def _text(self, image: Hashable, caption: Any) -> _Text:
    if not isinstance(caption, str):
      raise TypeError(f"expected a string, got {repr(caption)[:80]}")
    caption.encode()  # fails on lone surrogates, as tokenizers do
    # "sticky" keeps the last place for the end-of-sentence token.
    room = self._options["max_len"] - (self._options["eos"] == "sticky")
    ids = self._tokenizer.encode(
        caption,
        max_len=room + 1,
        eos="none",
        pad_value=-1,  # unlike every token
        space=self._options["space"],
    ).tolist()
    return _Text(
        image=image,
        caption=caption,
        ids=tuple(ids[:room]),
        cut=ids[room] >= 0,
        empty=ids[0] < 0 or not caption.strip(),
    )


def _record(source: Source, index: int) -> Record:
  """Returns a record, with a stand-in for the image of a folder."""
  if isinstance(source, FolderSource):
    return {"image": None, "text": source.entries[index][1]}
  return source[index]


def _equal_others(texts: Sequence[_Text]) -> Int[np.ndarray, " n"]:
  """Returns for each example how many others have its text or its image."""
  ids = Counter(t.ids for t in texts)
  images = Counter(t.image for t in texts)
  both = Counter((t.ids, t.image) for t in texts)
  return np.array(
      [ids[t.ids] + images[t.image] - both[t.ids, t.image] - 1 for t in texts]
  )


def _equal_in_batch(
    shares: Float[np.ndarray, " n"],
    total: int,
    batch_size: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n draws"]:
  """Returns how many equal ones an example meets in batches, simulated.

  An epoch is drawn without replacement, so the number is hypergeometric. If a
  batch is larger than the data, it holds every example equally often.

  Args:
    shares: for each example of the sample, the share of the others that are
      equal to it.
    total: number of training examples.
    batch_size: examples in a batch.
    rng: generator of the simulation.
  """
  if batch_size > total:
    return (batch_size / total * (1 + (total - 1) * shares) - 1)[:, None]
  total = min(total, 10**8)  # NumPy's limit is 10^9; this changes nothing
  values, places = np.unique(shares, return_inverse=True)
  equal = np.round(values * (total - 1)).astype(int)[:, None]
  draws = rng.hypergeometric(
      equal, total - 1 - equal, batch_size - 1, (len(values), _DRAWS)
  )
  return draws[places].astype(float)


def _floor(
    loss: ml_collections.ConfigDict, copies: Float[np.ndarray, "n draws"]
) -> float | None:
  """Returns the mean of the least loss of an example with k copies in a batch.

  The k examples share a text (or an image), so the k pairs of one image with
  these texts have one and the same logit. One of them is a positive and k - 1
  are negatives. The best probability is then 1 / k: the sigmoid loss of the k
  pairs is -ln(1/k) - (k - 1) ln(1 - 1/k), the softmax loss -ln(1/k).
  """
  if loss.name in _SOFTMAX:
    return float(np.log(copies).mean())
  if loss.name in _SIGMOID:
    rest = copies - 1
    # At k = 1 the second term is 0, its limit.
    ratio = np.log(copies / np.where(rest > 0, rest, 1))
    return float((np.log(copies) + rest * ratio).mean())
  return None
