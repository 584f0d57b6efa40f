"""The milestones of a run: where it saves, evaluates and ends."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
import dataclasses
from typing import Any

from siglip_jax import checkpoint
from siglip_jax import metrics as metrics_lib
from siglip_jax.evals import of_run
from siglip_jax.evals.evaluations import Evaluations
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Interrupted
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.preflight.start import Start
from siglip_jax.step import TrainState

_AGREE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
  """The actions due before a step.

  Attributes:
    save: whether to save a checkpoint, which comes first.
    evals: evaluators to run.
    stop: whether the run ends here, before its last step.
    last: whether all steps are done.
  """

  save: bool
  evals: list[str]
  stop: bool
  last: bool


def due(
    step: int,
    *,
    start: int,
    total_steps: int,
    save_steps: int,
    keep_every: int,
    every_steps: Mapping[str, int],
    stop: bool,
    done: Set[str],
) -> Due:
  """Returns what is due after `step` updates; depends only on its arguments.

  Args:
    step: number of updates made so far.
    start: number of updates made before this process started.
    total_steps: number of updates in the whole run.
    save_steps: number of updates between checkpoints. Every evaluation but that
      of the first step has a checkpoint, too, so that no step is lost with it.
    keep_every: number of updates between checkpoints that stay; 0 for none.
    every_steps: evaluator name -> number of updates between its evaluations.
    stop: whether the run is asked to end here; evaluations due at this step are
      then left to the next start.
    done: evaluators whose scores at `start` are on file. At the last step, all
      run again for the report.
  """
  last = step == total_steps
  stop = stop and not last
  evals = [
      name
      for name, every in every_steps.items()
      if last
      or (step % every == 0 and not stop and (step > start or name not in done))
  ]
  kept = keep_every and step % keep_every == 0
  regular = step > start and bool(step % save_steps == 0 or kept or evals)
  return Due(save=last or stop or regular, evals=evals, stop=stop, last=last)


class Milestones:
  """Saves and evaluates where that is due, and tells where the run ends.

  Attributes:
    evals: the evaluations.
    evaluate: whether this process runs them.
  """

  def __init__(
      self,
      p: Prepared,
      start: Start,
      checkpoints: checkpoint.Checkpoints,
      evals: Evaluations,
      phases: Phases,
      *,
      evaluate: bool,
  ):
    self._p, self._start, self._checkpoints = p, start, checkpoints
    self._phases, self.evals, self.evaluate = phases, evals, evaluate
    self._asked = 0

  def evaluated(self, step: int) -> set[str]:
    """Returns the evaluators whose scores at a step are on file."""
    history = metrics_lib.read_own(self._p.workdir)
    done = sorted(metrics_lib.evaluated(history, step))
    # Another host may see an older file: process 0 decides for all.
    topic = f"evaluated {step}"
    return set(self._p.peers.gather(topic, done, seconds=_AGREE_SECONDS)[0])

  def reach(self, step: int, state: TrainState, now: Due) -> str:
    """Does what is due; returns why the run ends here, or "" if it does not."""
    if now.save:
      self._save(step, state)
    try:
      if now.evals:
        self._run(step, now.evals, state)
      if now.stop:
        return "stop"
      if now.last:
        return "done"
      if self._agreed("early", step, of_run.early_stop) is None:
        return ""
      if self.evaluate:  # the others, for the report
        names = [
            n for n in self.evals.evaluators if n not in self.evals.results
        ]
        self._run(step, names, state)
      return "early"
    except Interrupted:
      self._save(step, state)  # the first step may not be saved
      return "stop"

  def _run(self, step: int, names: Sequence[str], state: TrainState) -> None:
    """Runs evaluators, once the state they evaluate is on disk."""
    with self._phases("save", step):
      self._checkpoints.wait()
    with self._phases("eval", step):
      self.evals.run(step, names, state.params)

  def _save(self, step: int, state: TrainState) -> None:
    with self._phases("save", step):
      self._checkpoints.save(
          step,
          state,
          self._p.spec,
          examples=self._start.examples_at(step, self._p.config.batch_size),
          best=self._agreed("best", step, self._best),
      )

  def _best(self, config, history) -> int | None:
    if not config.ckpt.best:
      return None
    return metrics_lib.best_step(
        history,
        config.ckpt.best,
        config.ckpt.best_mode,
        self._checkpoints.steps(),
    )

  def _agreed(self, what: str, step: int, choose: Callable) -> Any:
    """Returns what process 0 chooses from the metrics that are on file.

    The others may not see the newest line yet.
    """
    config, workdir = self._p.config, self._p.workdir
    if "early_stopping" not in config and not config.ckpt.best:
      return None
    value = None
    if self._p.main:
      value = choose(config, metrics_lib.read_own(workdir))
    self._asked += 1
    return self._p.peers.gather(
        f"{what} {step} {self._asked}", value, seconds=_AGREE_SECONDS
    )[0]
