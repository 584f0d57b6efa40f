"""Image-text retrieval: recall at 1, 5 and 10, both ways."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.evals import scores
from siglip_jax.evals.zeroshot import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
  """Pictures and captions of one source, each looked up by the other.

  Pictures with the same caption share one text; any of them is right for it.

  Attributes:
    dataset: the name in metrics.
    source: pictures.
    texts: the caption of each picture.
  """

  dataset: str
  source: Source
  texts: Sequence[str]

  def run(self, encoder) -> Result:
    """Evaluates an encoder (see `predict.Encoder`)."""
    captions = sorted(set(self.texts))
    number = {t: i for i, t in enumerate(captions)}
    of = np.array([number[t] for t in self.texts])
    right = of[:, None] == np.arange(len(captions))
    similarity = encoder.encode_source(self.source) @ (
        encoder.encode_texts(captions).T
    )
    found = []
    for way, sim, pos in (
        ("img2txt", similarity, right),
        ("txt2img", similarity.T, right.T),
    ):
      ranks = scores.ranks(sim, pos)
      for k in (1, 5, 10):
        chance = np.mean([
            scores.chance_at(k, int(p), sim.shape[1]) for p in pos.sum(axis=1)
        ])
        found.append(
            scores.score(
                f"retrieval/{self.dataset}/{way}@{k}", ranks < k, float(chance)
            )
        )
    return Result(scores=found)
