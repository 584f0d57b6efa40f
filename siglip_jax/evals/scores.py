"""Evaluators, and their scores with confidence intervals and chance levels."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import math
from typing import Literal
from typing import Protocol
from typing import runtime_checkable

from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A share or a mean of n examples, with its 95 % interval and chance level.

  Attributes:
    name: name in metrics.
    value: the share, or the mean.
    lo: lower end of the interval.
    hi: upper end of the interval.
    chance: value of a model that cannot tell the examples apart.
    n: number of examples.
    unit: "share" (of 1, more is better) or "nats" (a loss, less is better).
  """

  name: str
  value: float
  lo: float
  hi: float
  chance: float
  n: int
  unit: Literal["share", "nats"] = "share"

  @property
  def headline(self) -> bool:
    """Whether the report draws the score, and step 0 prints it."""
    return self.unit == "nats" or self.name.endswith(("/top1", "@1"))

  @property
  def value_text(self) -> str:
    """The value, formatted: "12.3%", or "2.35" for a loss."""
    return self._format(self.value)

  @property
  def interval_text(self) -> str:
    """The interval, formatted."""
    return f"{self._format(self.lo)} to {self._format(self.hi)}"

  @property
  def chance_text(self) -> str:
    """The chance level, formatted with one digit more than the value."""
    return self._format(self.chance, 1)

  @property
  def times_chance(self) -> str:
    """The value as a multiple of chance; "-" if chance is 0, and for a loss."""
    if self.unit == "nats" or not self.chance:
      return "-"
    return f"{self.value / self.chance:.1f}"

  def _format(self, value: float, more: int = 0) -> str:
    if self.unit == "share":
      return f"{value:.{1 + more}%}"
    return f"{value:#.{3 + more}g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """An image by its index in the source, its true name and three guesses."""

  index: int
  truth: str
  guesses: list[tuple[str, float]]  # name, sigmoid probability; best first

  @property
  def right(self) -> bool:
    """Whether the best guess is the true name."""
    return self.guesses[0][0] == self.truth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """The scores of an evaluation, and examples to look at."""

  scores: list[Score]
  gallery: list[Example] = dataclasses.field(default_factory=list)


@runtime_checkable
class Encoder(Protocol):
  """The part of a model that evaluators use; see `inference.encoder`."""

  @property
  def temperature(self) -> float:
    """The temperature of the logits, exp(t')."""
    ...

  @property
  def bias(self) -> float:
    """The bias of the logits."""
    ...

  def encode_source(self, source: Source) -> Float[np.ndarray, "N D"]:
    """Returns a source's L2-normalised image embeddings, in source order."""
    ...

  def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Returns L2-normalised embeddings of strings."""
    ...


@runtime_checkable
class Evaluator(Protocol):
  """One evaluation of a run, built from its section of config.evals."""

  @property
  def source(self) -> Source:
    """The images, which the report may show."""
    ...

  def run(self, encoder: Encoder) -> Result:
    """Evaluates the parameters that the encoder holds now."""
    ...


def score(name: str, hits: Bool[np.ndarray, " N"], chance: float) -> Score:
  """Returns the share of examples that were right, with its interval.

  Args:
    name: name of the score in metrics.
    hits: whether each example was right.
    chance: the share that guessing would get right.

  Raises:
    UserError: `hits` is empty.
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


def mean(name: str, losses: Float[np.ndarray, " N"], chance: float) -> Score:
  """Returns the mean of examples' losses, with its interval.

  The interval is the normal approximation, mean +- 1.96 standard errors, as if
  the losses were independent. With one example it has no width.

  Args:
    name: name of the score in metrics.
    losses: loss of each example, in nats; N >= 1.
    chance: loss of a model that cannot tell the examples apart.
  """
  n, value = len(losses), float(losses.mean())
  error = float(losses.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
  return Score(
      name=name,
      value=value,
      lo=value - _Z95 * error,
      hi=value + _Z95 * error,
      chance=chance,
      n=n,
      unit="nats",
  )


def wilson(successes: int, n: int) -> tuple[float, float]:
  """Returns the 95 % interval of a share (Wilson 1927); n must be positive.

  Unlike the normal approximation, the interval stays within [0, 1], and its
  width is not 0 at 0 of n.
  """
  z2 = _Z95 * _Z95
  p = successes / n
  center = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
  return max(center - half, 0.0), min(center + half, 1.0)


def ranks(
    similarity: Float[np.ndarray, "N M"], positives: Bool[np.ndarray, "N M"]
) -> Int[np.ndarray, " N"]:
  """Returns the rank of each query's best right candidate, from 0.

  The rank is the number of wrong candidates that score at least as high. Ties
  count against the model, so a model with constant output gets nothing.
  `~(a < b)` is not `a >= b`: it counts NaN too, so a diverged model gets
  nothing either.
  """
  best = np.max(np.where(positives, similarity, -np.inf), axis=1)
  return np.sum(~(similarity < best[:, None]) & ~positives, axis=1)


def chance_at(k: int, positives: int, candidates: int) -> float:
  """Returns the probability that k random candidates include a positive.

  This is hypergeometric and exact: one minus the share of draws that miss all
  positives.
  """
  k = min(k, candidates)
  misses = math.comb(candidates - positives, k)
  return 1 - misses / math.comb(candidates, k)


def metrics(scores: Iterable[Score]) -> dict[str, float]:
  """Returns the metrics of scores: values, interval ends and chance."""
  values = {}
  for s in scores:
    values |= {
        s.name: s.value,
        f"{s.name}/low": s.lo,
        f"{s.name}/high": s.hi,
        f"{s.name}/chance": s.chance,
    }
  return values
