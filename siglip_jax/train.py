"""The whole run, top to bottom: prepare, loop over steps, report."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import math
from pathlib import Path

import jax
import ml_collections

from siglip_jax import checkpoint
from siglip_jax import metrics as metrics_lib
from siglip_jax import progress as progress_lib
from siglip_jax import sanity
from siglip_jax import sharding
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import check as config_check
from siglip_jax.config import sources as config_sources
from siglip_jax.data import pipeline
from siglip_jax.data import prefetch
from siglip_jax.data.replaced import replaced_too_many
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError
from siglip_jax.evals import beside
from siglip_jax.evals import of_run
from siglip_jax.evals.milestones import Milestones
from siglip_jax.evals.milestones import due
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Preemption
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight import captions
from siglip_jax.preflight.claim import claim
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
    evaluate: bool = True,
) -> int:
  """Trains and evaluates a config in a workdir, resuming a run found there.

  Args:
    config: the config, as returned by get_config of a file in configs/.
    workdir: folder for everything the run writes.
    eval_only: whether to only evaluate the newest checkpoint, as
      `evals.beside.evaluate_only` does.
    evaluate: whether to run the evaluations; `evals.beside.watch` can run them
      in another process.

  Returns:
    The exit status: DONE, or TRY_AGAIN if SIGTERM or a pre-emption ended the
    run after it saved a checkpoint.

  Raises:
    UserError: the config, the data or the workdir cannot be used, or another
      run uses it.
    TryAgain: another process is missing.
  """
  if eval_only:
    return beside.evaluate_only(config, workdir)
  config_check.validate(config)
  phases, peers = Phases(), Peers()
  with (
      Watchdog(phases, peers, **config.watchdog),
      claim(workdir, peers, what="run") as folder,
  ):
    preemption = Preemption(peers)
    prepared = prepare(config, folder, peers, evaluates=evaluate)
    look = None
    if prepared.main:
      look = captions.look(config, prepared.source, prepared.pp.train)
    checkpoints = checkpoint.Checkpoints(
        folder,
        keep=config.ckpt.keep,
        keep_every=config.ckpt.keep_every,
        peers=peers,
    )
    start = restore_or_init(prepared, checkpoints)
    record_start(prepared, start, checkpoints)
    if look is not None:
      captions.report(look)
    bar = progress_lib.Progress(
        total_steps=config.total_steps,
        start_step=start.step,
        show=prepared.main,
    )
    writer = metrics_lib.MetricWriter(
        folder,
        write=prepared.main,
        start=start.step,
        wandb=of_run.wandb(config),
        config=config.to_dict(),
    )
    writer.note(start.step, "resumed with", list(map(str, start.changed)))
    evals = of_run.make(
        prepared,
        start.state.params,
        bar=bar,
        writer=writer,
        preemption=preemption,
        folder=folder,
    )
    with writer, contextlib.closing(checkpoints):
      step, why = train(
          prepared,
          start,
          milestones=Milestones(
              prepared, start, checkpoints, evals, phases, evaluate=evaluate
          ),
          checkpoints=checkpoints,
          writer=writer,
          bar=bar,
          phases=phases,
          preemption=preemption,
      )
      with phases("save", step):
        checkpoints.wait()
    if prepared.main:
      _say_end(prepared, step, why)
      if why != "stop":
        # The watch adds its scores to the report once the run has ended.
        of_run.show(prepared, evals, folder)
        workdir_lib.note_end(folder, step)
    return TRY_AGAIN if why == "stop" else DONE


def _say_end(p: Prepared, step: int, why: str) -> None:
  """Prints why a run ended before its last step."""
  if why == "stop":
    print(
        f"Stopped by SIGTERM at step {step}, which is saved. The same"
        " command goes on from there."
    )
  if why == "early":
    print(
        f"Stopped at step {step}: {p.config.early_stopping.metric} has not"
        f" improved for {p.config.early_stopping.patience} evaluations."
    )


def train(
    p: Prepared,
    start: Start,
    *,
    milestones: Milestones,
    checkpoints: checkpoint.Checkpoints,
    writer: metrics_lib.MetricWriter,
    bar: progress_lib.Progress,
    phases: Phases,
    preemption: Preemption,
) -> tuple[int, str]:
  """Loops over the steps, and returns the step at which the run ended and why.

  Each iteration saves, evaluates, reads a batch, steps and logs. In this order
  the saved state and the position in the data agree, and whatever ends an
  evaluation loses no step.

  Returns:
    (step, why): why is "done", "stop" for SIGTERM, or "early".
  """
  config, state = p.config, start.state
  log = _Log(p, start, checkpoints, writer, bar, phases)
  metrics = metrics_lib.Delayed(log.check, log.write)
  profiler = metrics_lib.Profiler(p.workdir, **config.profile)
  batches = _batches(p, start)
  compare = start.step == 0 and sanity.applies(config)
  every_steps = {name: e.every_steps for name, e in config.evals.items()}
  done = set(every_steps)  # at the first step; random weights score nothing
  if start.step or compare:
    done = milestones.evaluated(start.step)
  with bar:
    for step in range(start.step, config.total_steps + 1):
      now = due(
          step,
          start=start.step,
          total_steps=config.total_steps,
          save_steps=config.ckpt.save_steps,
          keep_every=config.ckpt.keep_every,
          every_steps=every_steps if milestones.evaluate else {},
          stop=step < config.total_steps and preemption.reached(),
          done=done,
      )
      why = ""
      if now.save or now.evals or step == start.step:
        with phases("step", step):
          metrics.settle(step)
        with log.clock.pause():
          why = milestones.reach(step, state, now)
        log.last_good = step
      if why:
        break
      profiler.before(step, state)
      with phases("data", step):
        batch = next(batches)
      if compare and step == 0:
        with log.clock.pause():
          scores = milestones.evals.scores()
          sanity.check(p.run.loss, state, batch, scores, p.main)
      with phases("step" if metrics.any else "first_step", step):
        with jax.transfer_guard("disallow"):
          state, values = p.run.train_step(state, batch)
        metrics.follow(values)
      if (step + 1) % config.log_steps == 0:
        # The device computes these after the step just dispatched.
        metrics.put(step + 1, values | p.run.learning_rates(step))
  profiler.close(state)
  return step, why


class _Log:
  """Checks the metrics of steps, and writes those of logged steps.

  Attributes:
    clock: measures examples per second; paused for all but training.
    last_good: the newest step whose state is known to be good.
  """

  def __init__(
      self,
      p: Prepared,
      start: Start,
      checkpoints: checkpoint.Checkpoints,
      writer: metrics_lib.MetricWriter,
      bar: progress_lib.Progress,
      phases: Phases,
  ):
    self._p, self._start, self._checkpoints = p, start, checkpoints
    self._writer, self._bar, self._phases = writer, bar, phases
    self._logged = self.last_good = start.step
    self._reading = metrics_lib.reading(
        p.source,
        seed=p.config.seed,
        batch_size=p.config.batch_size,
        order=config_sources.loader_options(p.config).get("order"),
    )
    self.clock = metrics_lib.Throughput()
    self.clock.start(start.examples)

  def check(self, step: int, values: Mapping[str, float]) -> None:
    """Raises UserError if the run is not worth continuing."""
    _check_finite(self._checkpoints, values, self.last_good, step)
    examples = self._start.examples_at(step, self._p.config.batch_size)
    _check_replaced(values, examples, step, self._p)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes a step's metrics, with speed, waiting times and host memory."""
    examples = self._start.examples_at(step, self._p.config.batch_size)
    rate = self.clock.rate(examples)
    steps, self._logged = step - self._logged, step
    self._writer.write(
        step,
        {**values, "train/examples_per_second": rate}
        | self._reading(examples)
        | metrics_lib.phase_shares(self._phases.take(), steps)
        | metrics_lib.host_memory(),
    )
    loss = values["train/loss"]
    self._bar.update(step, loss=loss, examples_per_second=rate)


def _batches(p: Prepared, start: Start) -> Iterator[dict[str, jax.Array]]:
  """Returns global batches on the devices, beginning with the first step."""
  config = p.config
  local = pipeline.train_iterator(
      p.source,
      p.pp.train,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start.step,
      start_example=start.examples,
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


def _check_replaced(values, examples: int, step: int, p: Prepared) -> None:
  limit = p.config.data.max_replaced_share
  replaced = int(values["data/replaced"])
  if replaced_too_many(replaced, examples, limit, distinct=len(p.source)):
    raise UserError(
        f"{replaced} of {examples} examples in {step} steps could not be read:"
        f" {replaced / examples:.1%}, and config.data.max_replaced_share is"
        f" {limit:.1%}. The log names them."
    )
