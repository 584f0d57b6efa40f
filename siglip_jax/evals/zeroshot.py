"""Zero-shot classification: compares images with embedded class names."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import prompts
from siglip_jax.evals import scores

_ROWS = 1024  # images scored at a time, to bound memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zeroshot:
  """Top-1 and top-5 accuracy on a labelled source.

  Attributes:
    dataset: name of the data set in metrics.
    source: the images.
    class_names: names of all classes.
    labels: index of each image's class in `class_names`.
    templates: prompts to average over; "{}" stands for the class name.
    gallery: number of examples to return, spread evenly over the source.
  """

  dataset: str
  source: Source
  class_names: Sequence[str]
  labels: Sequence[int]
  templates: Sequence[str] = prompts.NAME
  gallery: int = 24

  def __post_init__(self):
    """Raises UserError if the labels or templates are invalid."""
    classes = len(self.class_names)
    if len(self.labels) != len(self.source):
      raise UserError(
          f"{self.dataset} needs one label an image; got {len(self.labels)}"
          f" labels and {len(self.source)} images."
      )
    wrong = [i for i, x in enumerate(self.labels) if not 0 <= x < classes]
    if wrong:
      first = f"{self.source.key(wrong[0])} has {self.labels[wrong[0]]}"
      raise UserError(
          f"Labels of {self.dataset} must be in [0, {classes}), the number of"
          f" class names; {len(wrong)} of {len(self.labels)} are not: {first}."
          " Give the names of all classes."
      )
    prompts.check(self.templates, self.dataset)

  def run(self, encoder: scores.Encoder) -> scores.Result:
    """Evaluates an encoder."""
    zcls = prompts.ensemble(
        encoder.encode_texts, self.class_names, self.templates
    )
    zimg = encoder.encode_source(self.source)
    labels = np.asarray(self.labels)
    show = set(
        np.linspace(0, len(zimg) - 1, min(self.gallery, len(zimg))).astype(int)
    )
    chunks, gallery = [], []
    for start in range(0, len(zimg), _ROWS):
      cosine = zimg[start : start + _ROWS] @ zcls.T
      right = labels[start : start + _ROWS, None] == np.arange(len(zcls))
      chunks.append(scores.ranks(cosine, right))
      for i in sorted(show & set(range(start, start + len(cosine)))):
        gallery.append(self._example(int(i), cosine[i - start], encoder))
    ranks = np.concatenate(chunks) if chunks else np.zeros(0, int)
    return scores.Result(
        scores=[
            scores.score(
                f"zeroshot/{self.dataset}/top{k}",
                ranks < k,
                scores.chance_at(k, 1, len(zcls)),
            )
            for k in (1, 5)
        ],
        gallery=gallery,
    )

  def _example(self, index: int, cosine: np.ndarray, encoder) -> scores.Example:
    label = self.labels[index]
    # Among ties the true class comes last, as in the scores.
    best = np.lexsort((np.arange(len(cosine)) == label, -cosine))[:3]
    # Float64: exp(110), reached at the initial bias of -10, overflows float32.
    logits = encoder.temperature * cosine[best].astype(float) + encoder.bias
    probabilities = 1 / (1 + np.exp(-logits))
    names = [self.class_names[int(i)] for i in best]
    return scores.Example(
        index=index,
        truth=self.class_names[label],
        guesses=list(zip(names, map(float, probabilities), strict=True)),
    )
