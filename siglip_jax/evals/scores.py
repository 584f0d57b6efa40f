"""Accuracies with their intervals and chance levels."""

import dataclasses
import math

from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax.errors import UserError

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A share of n examples, its 95 % interval, and what guessing would reach."""

  name: str
  value: float
  lo: float
  hi: float
  chance: float
  n: int

  @property
  def times_chance(self) -> str:
    """How often chance fits into the value, for people."""
    return f"{self.value / self.chance:.1f}" if self.chance else "-"


def score(name: str, hits: Bool[np.ndarray, "N"], chance: float) -> Score:
  """The score of examples that were right or wrong.

  Raises:
    UserError: there are no examples.
  """
  n = len(hits)
  if n == 0:
    raise UserError(
        f"{name} needs at least one example; its split has none. Choose another"
        " split or leave the evaluator out."
    )
  lo, hi = wilson(int(hits.sum()), n)
  return Score(
      name=name, value=float(hits.mean()), lo=lo, hi=hi, chance=chance, n=n
  )


def wilson(successes: int, n: int) -> tuple[float, float]:
  """The 95 % interval of a share (Wilson 1927), n > 0.

  Unlike the normal approximation it keeps to [0, 1] and has width at 0 of n.
  """
  z2 = _Z95 * _Z95
  p = successes / n
  center = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
  return max(center - half, 0.0), min(center + half, 1.0)


def ranks(
    similarity: Float[np.ndarray, "N M"], positives: Bool[np.ndarray, "N M"]
) -> Int[np.ndarray, "N"]:
  """How many wrong candidates score at least as high as the best right one.

  Ties count against the model, so a constant one gets nothing. `~(a < b)` is
  not `a >= b`: it counts NaN too, so a diverged model gets nothing either.
  """
  best = np.max(np.where(positives, similarity, -np.inf), axis=1)
  return np.sum(~(similarity < best[:, None]) & ~positives, axis=1)


def chance_at(k: int, positives: int, candidates: int) -> float:
  """Probability that k candidates drawn at random hold one of the positives.

  Hypergeometric: one minus the draws that miss all positives, exactly.
  """
  k = min(k, candidates)
  misses = math.comb(candidates - positives, k)
  return 1 - misses / math.comb(candidates, k)
