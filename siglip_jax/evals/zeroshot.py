"""Zero-shot classification: images against the embeddings of class names."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import prompts
from siglip_jax.evals import scores

_ROWS = 1024  # images scored at a time, which bounds memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zeroshot:
  """Top-1 and top-5 of a labelled source.

  Attributes:
    dataset: the name in metrics.
    source: images.
    class_names: all candidates.
    labels: the number of each image's class.
    templates: prompts to average over; "{}" stands for the name.
    gallery: how many examples to return, spread evenly over the source.
  """

  dataset: str
  source: Source
  class_names: Sequence[str]
  labels: Sequence[int]
  templates: Sequence[str] = prompts.NAME
  gallery: int = 24

  def __post_init__(self):
    """Raises UserError for labels or templates that cannot be meant."""
    classes = len(self.class_names)
    if len(self.labels) != len(self.source):
      raise UserError(
          f"{self.dataset} needs one label an image; got {len(self.labels)}"
          f" labels and {len(self.source)} images."
      )
    wrong = [i for i in self.labels if not 0 <= i < classes]
    if wrong:
      raise UserError(
          f"Labels of {self.dataset} must be in [0, {classes}), the number of"
          f" class names; got {wrong[0]}. Give the names of all classes."
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
    found, gallery = [], []
    for start in range(0, len(zimg), _ROWS):
      cosine = zimg[start : start + _ROWS] @ zcls.T
      right = labels[start : start + _ROWS, None] == np.arange(len(zcls))
      found.append(scores.ranks(cosine, right))
      for i in sorted(show & set(range(start, start + len(cosine)))):
        gallery.append(self._example(int(i), cosine[i - start], encoder))
    ranks = np.concatenate(found) if found else np.zeros(0, int)
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
    # Among equals the truth comes last, as in the scores.
    best = np.lexsort((np.arange(len(cosine)) == label, -cosine))[:3]
    # Float64: exp(110) at the initial bias of -10 and below would overflow.
    logits = encoder.temperature * cosine[best].astype(float) + encoder.bias
    probabilities = 1 / (1 + np.exp(-logits))
    names = [self.class_names[int(i)] for i in best]
    return scores.Example(
        index=index,
        truth=self.class_names[label],
        guesses=list(zip(names, map(float, probabilities), strict=True)),
    )
