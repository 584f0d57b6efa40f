"""The evaluations of a run, and the newest result of each."""

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
    evaluators: name -> evaluator.
    encoder: encodes images and texts with the parameters to evaluate.
    write: called with (step, metrics) after each evaluation.
    evaluating: (name) -> context in which that evaluator runs; the context may
      show its progress.

  Attributes:
    evaluators: name -> evaluator.
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
    """Runs the named evaluators on a step's parameters; writes the scores."""
    self._encoder.replace_params(params)
    for name in names:
      with self._evaluating(name):
        result = self.evaluators[name].run(self._encoder)
      self.results[name] = result
      self._write(step, scores_lib.metrics(result.scores))

  def scores(self) -> list[Score]:
    """Returns the newest scores of all evaluators, in the config's order."""
    results = [self.results[n] for n in self.evaluators if n in self.results]
    return [score for result in results for score in result.scores]
