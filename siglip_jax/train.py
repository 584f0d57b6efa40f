"""The whole run, top to bottom: prepare, loop over steps, report."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import math
from pathlib import Path

import jax
import ml_collections

from siglip_jax import checkpoint
from siglip_jax import metrics as metrics_lib
from siglip_jax import progress as progress_lib
from siglip_jax import report
from siglip_jax import sanity
from siglip_jax import sharding
from siglip_jax.config import check as config_check
from siglip_jax.config import sources as config_sources
from siglip_jax.data import pipeline
from siglip_jax.data import prefetch
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError
from siglip_jax.evals.evaluations import Evaluations
from siglip_jax.inference.encoder import BatchEncoder
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Preemption
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.preflight.prepare import prepare
from siglip_jax.preflight.start import Start
from siglip_jax.preflight.start import record_start
from siglip_jax.preflight.start import restore_or_init


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    eval_only: bool = False,
) -> int:
  """Trains and evaluates a config in a workdir, resuming a run found there.

  Args:
    config: the config, as returned by get_config of a file in configs/.
    workdir: folder for everything the run writes.
    eval_only: whether to only evaluate the newest checkpoint.

  Returns:
    The exit status: DONE, or TRY_AGAIN if SIGTERM or a pre-emption ended the
    run after it saved a checkpoint.

  Raises:
    UserError: the config, the data or the workdir cannot be used.
    TryAgain: another process is missing.
  """
  config_check.validate(config)
  phases, peers = Phases(), Peers()
  with Watchdog(phases, peers, **config.watchdog):
    preemption = Preemption(peers)
    prepared = prepare(config, workdir, peers)
    checkpoints = checkpoint.Checkpoints(
        prepared.workdir,
        keep=config.ckpt.keep,
        clean=not eval_only,
        peers=peers,
    )
    start = restore_or_init(prepared, checkpoints, eval_only=eval_only)
    record_start(prepared, start, eval_only=eval_only)
    writer = metrics_lib.MetricWriter(prepared.workdir, write=prepared.main)
    bar = progress_lib.Progress(
        total_steps=config.total_steps,
        start_step=start.step,
        show=prepared.main,
    )
    encoder = BatchEncoder(
        model=prepared.run.model,
        params=start.state.params,
        mesh=prepared.run.mesh,
        image=prepared.pp.image,
        text=prepared.pp.text,
        batch_size=config.batch_size,
        track=bar.track,
    )
    evals = Evaluations(
        prepared.evaluators,
        encoder,
        write=writer.write,
        evaluating=bar.evaluating,
    )
    if eval_only:
      with bar, phases("eval", start.step):
        evals.run(start.step, evals.evaluators, start.state.params)
      step = config.total_steps
    else:
      step = train(
          prepared,
          start,
          checkpoints=checkpoints,
          evals=evals,
          writer=writer,
          bar=bar,
          phases=phases,
          preemption=preemption,
      )
    with phases("save", step):
      checkpoints.close()
    writer.close()
    if step < config.total_steps:
      if prepared.main:
        print(
            f"Stopped by SIGTERM at step {step}, which is saved. The same"
            " command goes on from there."
        )
      return TRY_AGAIN
    if prepared.main:
      show(prepared, evals)
    return DONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
  """The actions due before a step.

  Attributes:
    evals: evaluators to run.
    save: whether to save a checkpoint.
    stop: whether the run ends here, before its last step.
    last: whether all steps are done.
  """

  evals: list[str]
  save: bool
  stop: bool
  last: bool


def due(
    step: int,
    *,
    start: int,
    total_steps: int,
    save_steps: int,
    every_steps: Mapping[str, int],
    stop: bool,
    evaluated: bool,
) -> Due:
  """Returns what is due after `step` updates; depends only on its arguments.

  Args:
    step: number of updates made so far.
    start: number of updates made before this process started.
    total_steps: number of updates in the whole run.
    save_steps: number of updates between checkpoints.
    every_steps: evaluator name -> number of updates between its evaluations.
    stop: whether the run is asked to end here; evaluations due at this step are
      then left to the next start.
    evaluated: whether the evaluations at `start` are already done.
  """
  last = step == total_steps
  stop = stop and not last
  skip = stop or (step == start and evaluated and not last)
  evals = [
      name
      for name, every in every_steps.items()
      if not skip and (last or step % every == 0)
  ]
  save = last or stop or (step > start and step % save_steps == 0)
  return Due(evals=evals, save=save, stop=stop, last=last)


def train(
    p: Prepared,
    start: Start,
    *,
    checkpoints: checkpoint.Checkpoints,
    evals: Evaluations,
    writer: metrics_lib.MetricWriter,
    bar: progress_lib.Progress,
    phases: Phases,
    preemption: Preemption,
) -> int:
  """Loops over the steps, and returns the step at which the run ended.

  Each iteration evaluates, saves, reads a batch, steps and logs. In this order
  the saved state and the position in the data agree.
  """
  config, state = p.config, start.state
  log = _Log(p, checkpoints, start.step, writer, bar, phases)
  metrics = metrics_lib.Delayed(log.check, log.write)
  profiler = metrics_lib.Profiler(p.workdir, **config.profile)
  batches = _batches(p, start.step)
  compare = start.step == 0 and sanity.applies(config)
  every_steps = {name: e.every_steps for name, e in config.evals.items()}
  with bar:
    for step in range(start.step, config.total_steps + 1):
      now = due(
          step,
          start=start.step,
          total_steps=config.total_steps,
          save_steps=config.ckpt.save_steps,
          every_steps=every_steps,
          stop=step < config.total_steps and preemption.reached(step),
          evaluated=start.evaluated and not compare,
      )
      if now.evals or now.save:
        with phases("step", step):
          metrics.settle(step)
        with log.clock.pause():
          if now.evals:
            with phases("eval", step):
              evals.run(step, now.evals, state.params)
          if now.save:
            with phases("save", step):
              evaluated = not now.stop or step == 0
              checkpoints.save(step, state, p.spec, evaluated=evaluated)
            log.last_good = step
      if now.stop or now.last:
        break
      profiler.before(step, state)
      with phases("data", step):
        batch = next(batches)
      if compare and step == 0:
        with log.clock.pause():
          sanity.check(p.run.loss, state, batch, evals.scores(), p.main)
      with phases("step" if metrics.any else "first_step", step):
        with jax.transfer_guard("disallow"):
          state, values = p.run.train_step(state, batch)
        metrics.follow(values)
      if (step + 1) % config.log_steps == 0:
        # The device computes these after the step just dispatched.
        metrics.put(step + 1, values | p.run.learning_rates(step))
  profiler.close(state)
  return step


class _Log:
  """Checks the metrics of steps, and writes those of logged steps.

  Attributes:
    clock: measures examples per second; paused for all but training.
    last_good: the newest step whose state is known to be good.
  """

  def __init__(
      self,
      p: Prepared,
      checkpoints: checkpoint.Checkpoints,
      start: int,
      writer: metrics_lib.MetricWriter,
      bar: progress_lib.Progress,
      phases: Phases,
  ):
    self._p, self._checkpoints = p, checkpoints
    self._writer, self._bar, self._phases = writer, bar, phases
    self._logged = self.last_good = start
    self.clock = metrics_lib.Throughput()
    self.clock.start(start * p.config.batch_size)

  def check(self, step: int, values: Mapping[str, float]) -> None:
    """Raises UserError if the run is not worth continuing."""
    _check_finite(self._checkpoints, values, self.last_good, step)
    _check_replaced(values, step, self._p.config)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes a step's metrics, with speed, waiting times and host memory."""
    rate = self.clock.rate(step * self._p.config.batch_size)
    steps, self._logged = step - self._logged, step
    self._writer.write(
        step,
        {**values, "train/examples_per_second": rate}
        | metrics_lib.phase_shares(self._phases.take(), steps)
        | metrics_lib.host_memory(),
    )
    loss = values["train/loss"]
    self._bar.update(step, loss=loss, examples_per_second=rate)


def _batches(p: Prepared, start: int) -> Iterator[dict[str, jax.Array]]:
  """Returns global batches on the devices, beginning with step `start`."""
  config = p.config
  local = pipeline.train_iterator(
      p.source,
      p.pp.train,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start,
      total_steps=config.total_steps,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      **config_sources.loader_options(config),
  )
  return prefetch.to_device(local, sharding.batch_sharding(p.run.mesh))


def _check_finite(
    checkpoints: checkpoint.Checkpoints,
    values: Mapping[str, float],
    last_good: int,
    step: int,
) -> None:
  if math.isfinite(values["train/loss"]) and math.isfinite(
      values["train/grad_norm"]
  ):
    return
  checkpoints.wait()
  saved = checkpoints.steps()
  good = (
      f"checkpoints/{saved[0]} of {checkpoints.workdir}"
      if saved
      else "none was saved"
  )
  raise UserError(
      f"The loss or its gradient stopped being finite between steps {last_good}"
      f" and {step} (loss {values['train/loss']}). Last good: {good}."
      " Lower the learning rate, clip gradients, or set optim b2 to 0.95."
  )


def _check_replaced(values, step: int, config) -> None:
  share = values["data/replaced"] / (step * config.batch_size)
  if share > config.data.max_replaced_share:
    raise UserError(
        f"{int(values['data/replaced'])} examples in {step} steps could not be"
        f" read: {share:.1%}, and config.data.max_replaced_share is"
        f" {config.data.max_replaced_share:.1%}. The log names them."
    )


def show(p: Prepared, evals: Evaluations) -> None:
  """Prints the final table and writes report.html."""
  scores = evals.scores()
  progress_lib.final_table(scores)
  image = p.config.preprocess.image
  gallery = {
      name: report.cards(evals.evaluators[name], result, image)
      for name in evals.evaluators
      if (result := evals.results[name]).gallery
  }
  path = report.write_report(
      p.workdir,
      title=p.workdir.name,
      history=metrics_lib.read(p.workdir),
      scores=scores,
      gallery=gallery,
  )
  print(f"Report: {path}")
