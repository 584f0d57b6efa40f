"""All evaluations of a run, and what each of them measured last."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from contextlib import AbstractContextManager

from siglip_jax.evals import scores as scores_lib
from siglip_jax.evals.scores import Evaluator
from siglip_jax.evals.scores import Result
from siglip_jax.evals.scores import Score
from siglip_jax.inference.encoder import BatchEncoder


class Evaluations:
  """The evaluators of a run.

  Args:
    evaluators: by name.
    encoder: encodes with the parameters to be evaluated.
    write: (step, metrics) of each evaluation when it is done.
    evaluating: (name) returns a context in which that evaluator runs, which
      may show its progress.

  Attributes:
    evaluators: by name.
    results: name -> the newest result.
  """

  def __init__(
      self,
      evaluators: Mapping[str, Evaluator],
      encoder: BatchEncoder,
      *,
      write: Callable[[int, Mapping[str, float]], None],
      evaluating: Callable[[str], AbstractContextManager],
  ):
    self.evaluators, self.results = dict(evaluators), dict[str, Result]()
    self._encoder, self._write, self._evaluating = encoder, write, evaluating

  def run(self, step: int, names: Iterable[str], params: dict) -> None:
    """Evaluates the parameters of a step, and writes the scores."""
    self._encoder.replace_params(params)
    for name in names:
      with self._evaluating(name):
        result = self.evaluators[name].run(self._encoder)
      self.results[name] = result
      self._write(step, scores_lib.metrics(result.scores))

  def scores(self) -> list[Score]:
    """Returns the newest scores, by evaluator in the order of the config."""
    made = [self.results[n] for n in self.evaluators if n in self.results]
    return [score for result in made for score in result.scores]
