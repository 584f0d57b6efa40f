"""Image-text retrieval: recall at 1, 5 and 10, in both directions."""

from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals import scores

_ROWS = 1024  # queries scored at a time, to bound memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
  """Images and captions of one source, each retrieved by the other.

  An image has one caption or several, and images may have the same one: every
  pair that the source holds is right. Equal captions are one candidate and one
  query, and so are the records that share an image.

  Attributes:
    dataset: name of the data set in metrics.
    source: the images.
    texts: the caption, or the captions, of each record.
    images: a value for each record, equal where records share an image; None if
      none do.
  """

  dataset: str
  source: Source
  texts: Sequence[str | Sequence[str]]
  images: Sequence[Hashable] | None = None

  def __post_init__(self):
    """Raises UserError unless each image has a caption."""
    records = len(self.source)
    images = records if self.images is None else len(self.images)
    if not len(self.texts) == images == records or not records:
      raise UserError(
          f"{self.dataset} needs images and one caption for each, or more; got"
          f" {len(self.texts)} captions and {records} images."
      )

  def run(self, encoder: scores.Encoder) -> scores.Result:
    """Evaluates an encoder."""
    first, images = _numbers(
        range(len(self.source)) if self.images is None else self.images
    )
    lists = [[t] if isinstance(t, str) else t for t in self.texts]
    captions = sorted({t for texts in lists for t in texts})
    number = {t: i for i, t in enumerate(captions)}
    pairs = np.array(
        sorted(
            {
                (image, number[t])
                for image, texts in zip(images, lists, strict=True)
                for t in texts
            }
        )
    )
    zimg = encoder.encode_source(self.source)[first]
    ztxt = encoder.encode_texts(captions)
    return scores.Result(
        scores=[
            *self._scores("img2txt", zimg, ztxt, pairs),
            *self._scores("txt2img", ztxt, zimg, pairs[:, ::-1]),
        ]
    )

  def _scores(
      self,
      way: str,
      z: Float[np.ndarray, "N D"],
      others: Float[np.ndarray, "M D"],
      pairs: Int[np.ndarray, "P 2"],
  ) -> list[scores.Score]:
    """Scores the queries `z`.

    Args:
      way: direction, for the names of the scores.
      z: embeddings of the queries.
      others: embeddings of the candidates.
      pairs: each query and candidate that belong together.
    """
    ranks, counts = [], []
    for start in range(0, len(z), _ROWS):
      cosine = z[start : start + _ROWS] @ others.T
      positives = _positives(pairs, start, *cosine.shape)
      ranks.append(scores.ranks(cosine, positives))
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


def _numbers(images: Iterable[Hashable]) -> tuple[list[int], list[int]]:
  """Returns the first record of each image, and each record's image."""
  numbers: dict[Hashable, int] = {}
  first, of_records = [], []
  for record, image in enumerate(images):
    if image not in numbers:
      numbers[image] = len(first)
      first.append(record)
    of_records.append(numbers[image])
  return first, of_records


def _positives(
    pairs: Int[np.ndarray, "P 2"], start: int, rows: int, columns: int
) -> Bool[np.ndarray, "N M"]:
  """Returns which candidates are right for the queries from `start` on."""
  query, candidate = pairs.T
  here = (start <= query) & (query < start + rows)
  positives = np.zeros((rows, columns), bool)
  positives[query[here] - start, candidate[here]] = True
  return positives
