"""The loss of a split that is not trained on, in global batches."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from jaxtyping import Float
import numpy as np

from siglip_jax.data import kinds
from siglip_jax.data import sources
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import scores

_PAIRS = 2**23  # scored at a time: 64 MiB in float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationLoss:
  """The mean over examples of each one's loss within its batch.

  Batches are consecutive examples; the last one may be smaller and is computed
  at its own size. All is in float64 and on the host, so the result does not
  depend on the number of devices and processes but for rounding of embeddings.

  Attributes:
    dataset: name of the data set in metrics.
    source: the images.
    texts: the caption of each image.
    loss: a key of `LOSSES`.
    batch_size: number of examples in a batch; 0 makes one batch of all.
  """

  dataset: str
  source: Source
  texts: Sequence[str]
  loss: str
  batch_size: int

  def __post_init__(self):
    """Raises UserError if an argument is invalid."""
    if len(self.texts) != len(self.source) or not self.texts:
      raise UserError(
          f"{self.dataset} needs images and one caption for each; got"
          f" {len(self.texts)} captions and {len(self.source)} images."
      )
    if self.loss not in LOSSES:
      raise UserError(
          f"The loss of {self.dataset} must be one of {', '.join(LOSSES)}; got"
          f" {self.loss!r}."
      )
    if self.batch_size < 0 or self.batch_size == 1:
      raise UserError(
          f"The batch_size of {self.dataset} must be 0 (all examples) or at"
          f" least 2, as an example's loss compares it with the others; got"
          f" {self.batch_size}."
      )

  def run(self, encoder: scores.Encoder) -> scores.Result:
    """Evaluates an encoder."""
    texts = sorted(set(self.texts))
    row = {text: i for i, text in enumerate(texts)}
    rows = np.array([row[text] for text in self.texts])
    zimg = encoder.encode_source(self.source)
    ztxt = encoder.encode_texts(texts)
    function, chance = LOSSES[self.loss]
    scalars = encoder.temperature, encoder.bias
    losses, chances = [], []
    size = self.batch_size or len(rows)
    for start in range(0, len(rows), size):
      batch = slice(start, start + size)
      with np.errstate(all="ignore"):  # a diverged model's loss is NaN
        losses.append(function(zimg[batch], ztxt[rows[batch]], *scalars))
      chances.append(np.full(len(losses[-1]), chance(len(losses[-1]))))
    return scores.Result(
        scores=[
            scores.mean(
                f"loss/{self.dataset}",
                np.concatenate(losses),
                float(np.concatenate(chances).mean()),
            )
        ]
    )


def validation_loss(
    *,
    dataset: str,
    split: str,
    loss: str,
    batch_size: int,
    text: str = "text",
    embeddings: str | None = None,
    **data: Any,
) -> ValidationLoss:
  """Returns the validation loss on a split.

  Args:
    dataset: name of the data set in metrics.
    split: split with the images and captions.
    loss: "sigmoid" or "softmax".
    batch_size: number of examples in a batch, for which the loss is comparable
      to that of training if it is config.batch_size; 0 makes one batch of all.
    text: record key of the captions; of a list of captions, the first counts.
    embeddings: folder of the images' embeddings, for a run without an image
      tower.
    **data: `name`, `path`, `data_dir`, as in config.data.

  Raises:
    UserError: the data do not have what the arguments name.
  """
  if embeddings:
    data = {"embeddings": embeddings}
  source = kinds.make(split=split, **data)
  return ValidationLoss(
      dataset=dataset,
      source=source,
      texts=[
          _caption(source, i, value)
          for i, value in enumerate(sources.values(source, text))
      ],
      loss=loss,
      batch_size=batch_size,
  )


def sigmoid_losses(
    zimg: Float[np.ndarray, "B D"],
    ztxt: Float[np.ndarray, "B D"],
    temperature: float,
    bias: float,
) -> Float[np.ndarray, " B"]:
  """Returns each image's sum of -log sigmoid(label * logit) over all texts."""
  losses = []
  for start, logits in _blocks(zimg, ztxt, temperature):
    own = np.arange(len(logits))
    logits += bias
    logits[own, start + own] *= -1
    losses.append(np.logaddexp(0, logits).sum(axis=1))
  return np.concatenate(losses)


def softmax_losses(
    zimg: Float[np.ndarray, "B D"],
    ztxt: Float[np.ndarray, "B D"],
    temperature: float,
    bias: float = 0.0,
) -> Float[np.ndarray, " B"]:
  """Returns each pair's mean cross-entropy of both directions.

  The bias is the same for all texts and cancels.
  """
  del bias
  own, over_texts = [], []
  over_images = np.full(len(ztxt), -np.inf)
  for start, logits in _blocks(zimg, ztxt, temperature):
    own.append(np.diagonal(logits, start).copy())
    over_texts.append(_log_sum_exp(logits, axis=1))
    over_images = np.logaddexp(over_images, _log_sum_exp(logits, axis=0))
  return (np.concatenate(over_texts) + over_images) / 2 - np.concatenate(own)


def _blocks(zimg, ztxt, temperature: float):
  """Yields the first row and the logits of blocks of images.

  A block is rows x B, so that a large batch fits in memory.
  """
  ztxt = ztxt.astype(np.float64).T
  rows = max(_PAIRS // len(zimg), 1)
  for start in range(0, len(zimg), rows):
    images = zimg[start : start + rows].astype(np.float64)
    yield start, temperature * (images @ ztxt)


def _log_sum_exp(x, axis: int):
  largest = x.max(axis=axis, keepdims=True)
  total = np.exp(x - largest).sum(axis=axis)
  return np.log(total) + np.squeeze(largest, axis)


def _sigmoid_chance(k: int) -> float:
  """Returns the loss of the best constant probability, 1 / k."""
  return math.log(k) + (k - 1) * math.log(k / (k - 1)) if k > 1 else 0.0


# Name -> loss of each example in a batch, and the loss of a batch of k examples
# that the model cannot tell apart.
LOSSES: dict[str, tuple[Callable, Callable[[int], float]]] = {
    "sigmoid": (sigmoid_losses, _sigmoid_chance),
    "softmax": (softmax_losses, math.log),
}


def _caption(source: Source, index: int, value) -> str:
  """Returns a caption, or the first of a list of captions."""
  several = isinstance(value, list | tuple | np.ndarray)
  text = value[0] if several and len(value) else value
  if isinstance(text, str):
    return text
  raise UserError(
      f"Validation loss needs texts; {source.key(index)} has {value!r:.80}."
      " Change `text` in config.evals."
  )
