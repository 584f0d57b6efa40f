"""The whole run, top to bottom: data, model, step, loop, evals, report."""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import math
from pathlib import Path

import jax
import ml_collections
import numpy as np

from siglip_jax import checkpoint
from siglip_jax import init
from siglip_jax import metrics as metrics_lib
from siglip_jax import profiling
from siglip_jax import progress as progress_lib
from siglip_jax import report
from siglip_jax import sanity
from siglip_jax import sharding
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import check as config_check
from siglip_jax.config import sources as config_sources
from siglip_jax.config import strings
from siglip_jax.data import pipeline
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import meaning
from siglip_jax.data.sources import Source
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.inference import encoder as encoder_lib
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Preemption
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight import checks
from siglip_jax.run import Run
from siglip_jax.weights import tower_file


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    eval_only: bool = False,
) -> int:
  """Runs a config in a workdir, resuming what is there.

  Args:
    config: as returned by the get_config of a file in configs/.
    workdir: folder for everything the run writes.
    eval_only: evaluate the newest checkpoint and stop.

  Returns:
    The exit status: DONE, or TRY_AGAIN when SIGTERM or a pre-emption ended the
    run after a checkpoint.

  Raises:
    UserError: the config, the data or the workdir cannot be used.
    TryAgain: another process is missing.
  """
  config_check.validate(config)
  phases, peers = Phases(), Peers()
  limits = config_check.process_options(config, "watchdog")
  with Watchdog(phases, peers, **limits):
    return _train_and_evaluate(config, workdir, eval_only, phases, peers)


def _train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    eval_only: bool,
    phases: Phases,
    peers: Peers,
) -> int:
  preemption = Preemption(peers)
  workdir = workdir_lib.prepare(workdir, peers.index)
  source = config_sources.train_source(config)
  pp = strings.make(config, source)
  evals = {
      name: (section.every_steps, _make_eval(section, config, source))
      for name, section in config.evals.items()
  }

  mesh = sharding.make_mesh(**config.mesh)
  run = Run(config, mesh, pp.value_range, len(source))
  main_process = peers.index == 0
  digest = pp.tokenizer.digest
  checks.check(run, source, workdir, peers, tokenizer_digest=digest)
  checkpoints = checkpoint.Checkpoints(
      workdir, keep=config.ckpt.keep, clean=not eval_only, peers=peers
  )
  spec = _spec(config, pp.tokenizer, source)
  state, start, evaluated = _restore_or_init(run, checkpoints, spec, eval_only)
  if main_process:
    workdir_lib.write_config(config, workdir)
    workdir_lib.keep_tokenizer(pp.tokenizer, workdir)
    if isinstance(source, Embeddings):
      tower_file.keep(source, workdir)
    again = not evaluated or start == config.total_steps
    metrics_lib.rewind(workdir, start, scores=eval_only or not again)
  writer = metrics_lib.MetricWriter(workdir, write=main_process)
  bar = progress_lib.Progress(
      total_steps=config.total_steps, start_step=start, show=main_process
  )
  encoder = encoder_lib.BatchEncoder(
      model=run.model,
      params=state.params,
      mesh=mesh,
      image=pp.image,
      text=pp.text,
      batch_size=config.batch_size,
      track=bar.track,
  )
  results: dict = {}

  def evaluate(step: int, names) -> None:
    encoder.replace_params(state.params)
    for name in names:
      with bar.evaluating(name):
        results[name] = evals[name][1].run(encoder)
      writer.write(step, _score_metrics(results[name].scores))

  if eval_only:
    with bar, phases("eval", start):
      evaluate(start, evals)
    writer.close()
    checkpoints.close()
    _show(config, workdir, evals, results, main_process)
    return DONE

  clock = metrics_lib.Throughput()
  profiler = profiling.Profiler(
      workdir, **config_check.process_options(config, "profile")
  )
  batches = _to_device(
      pipeline.train_iterator(
          source,
          pp.train,
          batch_size=config.batch_size,
          seed=config.seed,
          start_step=start,
          total_steps=config.total_steps,
          process_index=jax.process_index(),
          process_count=jax.process_count(),
          **config_sources.loader_options(config),
      ),
      sharding.batch_sharding(mesh),
  )
  pending: tuple[int, dict] | None = None
  first_look = start == 0 and sanity.applies(config)
  under_way: dict = {}
  logged = last_good = start

  def checked(step: int, values: Mapping) -> dict[str, float]:
    """Metrics of a step made; ends a run that is not worth going on with."""
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    _check_finite(values, last_good, step, workdir, checkpoints)
    _check_replaced(values, step, config)
    return values

  def log(pending) -> None:
    """Writes metrics of an earlier step, by now computed."""
    nonlocal logged
    if pending is None:
      return
    step, values = pending
    values = checked(step, values)
    rate = clock.rate(step * config.batch_size)
    if rate is not None:
      values["train/examples_per_second"] = rate
    values |= metrics_lib.phase_shares(phases.take(), step - logged)
    values |= metrics_lib.host_memory()
    logged = step
    writer.write(step, values)
    bar.update(step, loss=values["train/loss"], examples_per_second=rate)

  clock.start(start * config.batch_size)
  with bar:
    for step in range(start, config.total_steps + 1):
      last = step == config.total_steps
      stop = not last and preemption.reached(step)
      # Where a run was stopped, evaluations are left to the next one.
      done = step == start and evaluated and not last and not first_look
      due = [
          name
          for name, (every, _) in evals.items()
          if not stop and not done and (last or step % every == 0)
      ]
      save = (
          last or stop or (step > start and step % config.ckpt.save_steps == 0)
      )
      if due or save:
        with phases("step", step):
          log(pending)
          if pending is None and under_way:
            checked(step, under_way)  # no bad state is saved
        pending = None
        with clock.pause():
          if due:
            with phases("eval", step):
              evaluate(step, due)
          if save:
            with phases("save", step):
              checkpoints.save(
                  step, state, spec, evaluated=not stop or step == 0
              )
            last_good = step
      if last or stop:
        break
      profiler.before(step, state)
      with phases("data", step):
        batch = next(batches)
      if first_look and step == 0:
        with clock.pause():
          sanity.show(run.loss, state, batch, results, main_process)
      with phases("step" if under_way else "first_step", step):
        with jax.transfer_guard("disallow"):
          state, values = run.train_step(state, batch)
        # One step runs while the next is made ready, and no more: so a phase
        # is no longer than a step, and a batch is not held for long.
        jax.block_until_ready(under_way)
        under_way = values
        log(pending)
      pending = None
      if (step + 1) % config.log_steps == 0:
        # Of the step just made, and computed behind it on the device.
        pending = (step + 1, values | run.learning_rates(step))
  profiler.close(state)
  with phases("save", step):
    checkpoints.close()
  writer.close()
  if step < config.total_steps:
    if main_process:
      print(
          f"Stopped by SIGTERM at step {step}, which is saved. The same command"
          " goes on from there."
      )
    return TRY_AGAIN
  _show(config, workdir, evals, results, main_process)
  return DONE


def _spec(config, tokenizer: Tokenizer, source: Source) -> dict:
  """What the weights depend on."""
  spec = {
      "image": config.preprocess.image,
      "text": config.preprocess.text,
      "image_size": config.image_size,
      "text_len": config.text_len,
      "tokenizer_digest": tokenizer.digest,
  }
  if isinstance(source, Embeddings):
    spec["tower_digest"] = source.manifest["tower_digest"]
  return spec


def _make_eval(section, config, source: Source):
  options = {
      k: v for k, v in section.items() if k not in ("type", "every_steps")
  }
  evaluator = EVALUATORS[section.type](**options)
  if isinstance(source, Embeddings):
    digest = source.manifest["tower_digest"]
    strings.check_evaluation(config, evaluator.source, digest)
  return evaluator


def _restore_or_init(run: Run, checkpoints, spec: Mapping, eval_only: bool):
  found = checkpoints.restore(run.state_shapes)
  if found is None:
    if eval_only:
      raise UserError("--eval_only needs a checkpoint; the workdir has none.")
    return init.begin(run, spec), 0, True
  state, saved, evaluated = found
  for key, value in spec.items():
    same = saved.get(key) == value
    if key in ("image", "text"):
      same = meaning(saved[key]) == meaning(value)
    if not same:
      raise UserError(
          f"The checkpoint was trained with {key} = {saved.get(key)!r}, this"
          f" config has {value!r}. Restore the former, or use a new workdir."
      )
  return state, int(state.step), evaluated


def _to_device(batches: Iterator[Mapping], to, ahead: int = 2):
  """Global arrays of local batches, `ahead` of them on the way."""
  queue: collections.deque = collections.deque()
  for batch in itertools.chain(batches, [None] * ahead):
    if batch is not None:
      image = batch["image"].reshape(len(batch["image"]), -1)
      local = dict(batch, image=image)  # rows of bytes: see make_train_step
      queue.append(
          {
              k: jax.make_array_from_process_local_data(to, local[k])
              for k in ("image", "text", "replaced")
          }
      )
    if queue and (len(queue) > ahead or batch is None):
      yield queue.popleft()


def _check_finite(values, last_good: int, step: int, workdir, checkpoints):
  if math.isfinite(values["train/loss"]) and math.isfinite(
      values["train/grad_norm"]
  ):
    return
  checkpoints.wait()
  saved = checkpoints.steps()
  good = f"checkpoints/{saved[0]} of {workdir}" if saved else "none was saved"
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


def _score_metrics(scores) -> dict[str, float]:
  found = {}
  for s in scores:
    found |= {
        s.name: s.value,
        f"{s.name}/low": s.lo,
        f"{s.name}/high": s.hi,
        f"{s.name}/chance": s.chance,
    }
  return found


def _show(config, workdir, evals, results, main_process: bool) -> None:
  """The final table and report.html."""
  if not main_process:
    return
  scores = [s for name in evals for s in results[name].scores]
  progress_lib.final_table(scores)
  show = Preprocess(config.preprocess.image)
  gallery = {}
  for name, (_, evaluator) in evals.items():
    cards = [
        report.Card(
            image=show(evaluator.source[e.index], np.random.default_rng(0))[
                "image"
            ],
            truth=e.truth,
            guesses=e.guesses,
        )
        for e in results[name].gallery
    ]
    if cards:
      gallery[name] = cards
  path = report.write_report(
      workdir,
      title=workdir.name,
      history=metrics_lib.read(workdir),
      scores=scores,
      gallery=gallery,
  )
  print(f"Report: {path}")
