"""Image-text retrieval: recall at 1, 5 and 10, in both directions."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import scores

_ROWS = 1024  # queries scored at a time, to bound memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
  """Images and captions of one source, each retrieved by the other.

  Images with the same caption share one text; any of them is right for it.

  Attributes:
    dataset: name of the data set in metrics.
    source: the images.
    texts: the caption of each image.
  """

  dataset: str
  source: Source
  texts: Sequence[str]

  def __post_init__(self):
    """Raises UserError unless each image has a caption."""
    if len(self.texts) != len(self.source) or not self.texts:
      raise UserError(
          f"{self.dataset} needs images and one caption for each; got"
          f" {len(self.texts)} captions and {len(self.source)} images."
      )

  def run(self, encoder: scores.Encoder) -> scores.Result:
    """Evaluates an encoder."""
    captions = sorted(set(self.texts))
    number = {t: i for i, t in enumerate(captions)}
    image_groups = np.array([number[t] for t in self.texts])
    text_groups = np.arange(len(captions))
    zimg = encoder.encode_source(self.source)
    ztxt = encoder.encode_texts(captions)
    return scores.Result(
        scores=[
            *self._scores("img2txt", zimg, ztxt, image_groups, text_groups),
            *self._scores("txt2img", ztxt, zimg, text_groups, image_groups),
        ]
    )

  def _scores(self, way: str, z, others, group, groups) -> list[scores.Score]:
    """Scores the queries `z`; candidates of the query's group are right.

    Args:
      way: direction, for the names of the scores.
      z: embeddings of the queries.
      others: embeddings of the candidates.
      group: the group of each query.
      groups: the group of each candidate.
    """
    ranks, counts = [], []
    for start in range(0, len(z), _ROWS):
      rows = slice(start, start + _ROWS)
      positives = group[rows, None] == groups
      ranks.append(scores.ranks(z[rows] @ others.T, positives))
      counts.append(positives.sum(axis=1))
    ranks, counts = np.concatenate(ranks), np.concatenate(counts)
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
