"""Image-text retrieval: recall at 1, 5 and 10, both ways."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import scores

_ROWS = 1024  # queries scored at a time, which bounds memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
  """Images and captions of one source, each looked up by the other.

  Images with the same caption share one text; any of them is right for it.

  Attributes:
    dataset: the name in metrics.
    source: images.
    texts: the caption of each image.
  """

  dataset: str
  source: Source
  texts: Sequence[str]

  def __post_init__(self):
    """Raises UserError unless each image has its caption."""
    if len(self.texts) != len(self.source) or not self.texts:
      raise UserError(
          f"{self.dataset} needs images and one caption for each; got"
          f" {len(self.texts)} captions and {len(self.source)} images."
      )

  def run(self, encoder: scores.Encoder) -> scores.Result:
    """Evaluates an encoder."""
    captions = sorted(set(self.texts))
    number = {t: i for i, t in enumerate(captions)}
    of_image = np.array([number[t] for t in self.texts])
    of_text = np.arange(len(captions))
    zimg = encoder.encode_source(self.source)
    ztxt = encoder.encode_texts(captions)
    return scores.Result(
        scores=[
            *self._way("img2txt", zimg, ztxt, of_image, of_text),
            *self._way("txt2img", ztxt, zimg, of_text, of_image),
        ]
    )

  def _way(self, way: str, z, others, group, groups) -> list[scores.Score]:
    """Scores of queries `z`; a candidate of the same group is right."""
    found, counts = [], []
    for start in range(0, len(z), _ROWS):
      rows = slice(start, start + _ROWS)
      positives = group[rows, None] == groups
      found.append(scores.ranks(z[rows] @ others.T, positives))
      counts.append(positives.sum(axis=1))
    ranks, counts = np.concatenate(found), np.concatenate(counts)
    values, times = np.unique(counts, return_counts=True)
    return [
        scores.score(
            f"retrieval/{self.dataset}/{way}@{k}",
            ranks < k,
            float(
                np.average(
                    [scores.chance_at(k, int(p), len(others)) for p in values],
                    weights=times,
                )
            ),
        )
        for k in (1, 5, 10)
    ]
