"""Accuracies with their intervals and chance levels."""

import dataclasses
import math

from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A share of n examples, its 95 % interval, and what guessing would reach."""

  name: str
  value: float
  lo: float
  hi: float
  chance: float
  n: int


def score(name: str, hits: Bool[np.ndarray, "N"], chance: float) -> Score:
  """The score of examples that were right or wrong."""
  lo, hi = wilson(int(hits.sum()), len(hits))
  return Score(
      name=name, value=float(hits.mean()), lo=lo, hi=hi, chance=chance,
      n=len(hits),
  )


def wilson(successes: int, n: int) -> tuple[float, float]:
  """Wilson's 95 % interval of a share."""
  z = 1.959963984540054
  p = successes / n
  center = (p + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return max(center - half, 0.0), min(center + half, 1.0)


def ranks(
    similarity: Float[np.ndarray, "N M"], positives: Bool[np.ndarray, "N M"]
) -> Int[np.ndarray, "N"]:
  """How many wrong candidates score at least as high as the best right one.

  Equal scores count against the model, so a constant one gets nothing.
  """
  best = np.max(np.where(positives, similarity, -np.inf), axis=1)
  return np.sum((similarity >= best[:, None]) & ~positives, axis=1)


def chance_at(k: int, positives: int, candidates: int) -> float:
  """Probability that k candidates drawn at random hold one of the positives."""
  if k > candidates - positives:
    return 1.0
  misses = math.comb(candidates - positives, k)
  return 1 - misses / math.comb(candidates, k)
