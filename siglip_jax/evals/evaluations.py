"""The evaluations of a run, and the newest result of each."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
import math
import time
from typing import Any

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
    history: returns the lines of metrics that are on file.
    write: called with (step, metrics) after each evaluation, unless the same
      scores are on file. The metrics are the scores and `eval/NAME/seconds`,
      which says that evaluator NAME is done at this step.
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
      history: Callable[[], Sequence[Mapping[str, Any]]],
      write: Callable[[int, Mapping[str, float]], None],
      evaluating: Callable[[str], AbstractContextManager],
  ):
    self.evaluators, self.results = dict(evaluators), dict[str, Result]()
    self._encoder, self._evaluating = encoder, evaluating
    self._history, self._write = history, write

  def run(self, step: int, names: Iterable[str], params: dict) -> None:
    """Runs the named evaluators on a step's parameters; writes the scores."""
    self._encoder.replace_params(params)
    for name in names:
      begin, mark = time.monotonic(), f"eval/{name}/seconds"
      with self._evaluating(name):
        result = self.evaluators[name].run(self._encoder)
      self.results[name] = result
      values = scores_lib.metrics(result.scores)
      if not self._on_file(step, mark, values):
        self._write(step, values | {mark: time.monotonic() - begin})

  def scores(self) -> list[Score]:
    """Returns the newest scores of all evaluators, in the config's order."""
    results = [self.results[n] for n in self.evaluators if n in self.results]
    return [score for result in results for score in result.scores]

  def _on_file(self, step: int, mark: str, values: Mapping[str, float]) -> bool:
    """Whether an evaluator's newest line of a step has these values."""
    lines = [x for x in self._history() if x["step"] == step and mark in x]
    # What is not finite is null on file.
    written = {k: v if math.isfinite(v) else None for k, v in values.items()}
    return bool(lines) and written.items() <= lines[-1].items()
