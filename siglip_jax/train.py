"""The whole run, top to bottom: data, model, step, loop, evals, report."""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import math
from pathlib import Path
import shutil
import signal

import jax
from jax.experimental import multihost_utils
import ml_collections
import numpy as np

from siglip_jax import checkpoint
from siglip_jax import config as config_lib
from siglip_jax import metrics as metrics_lib
from siglip_jax import predict
from siglip_jax import preprocessing
from siglip_jax import progress as progress_lib
from siglip_jax import report
from siglip_jax import sharding
from siglip_jax.data import pipeline
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.run import Run


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
    The exit status: 0, also when SIGTERM ended the run after a checkpoint.

  Raises:
    UserError: the config, the data or the workdir cannot be used.
  """
  config_lib.validate(config)
  workdir = _prepare(workdir)
  source = config_lib.train_source(config)
  pp = preprocessing.make(config, source)
  evals = {
      name: (section.every_steps, _make_eval(section))
      for name, section in config.evals.items()
  }

  mesh = sharding.make_mesh(**config.mesh)
  run = Run(config, mesh, pp.value_range, len(source))
  main_process = jax.process_index() == 0
  checkpoints = checkpoint.Checkpoints(workdir, keep=config.ckpt.keep)
  spec = _spec(config, pp.tokenizer)
  state, start = _restore_or_init(run, checkpoints, spec, eval_only)
  if main_process:
    config_lib.write(config, workdir)
    _keep_tokenizer(pp.tokenizer, workdir)
    metrics_lib.rewind(workdir, start)
  writer = metrics_lib.MetricWriter(workdir, write=main_process)
  bar = progress_lib.Progress(
      total_steps=config.total_steps, start_step=start, show=main_process
  )
  encoder = predict.Encoder(
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
    with bar:
      evaluate(start, evals)
    writer.close()
    checkpoints.close()
    _show(config, workdir, evals, results, main_process)
    return 0

  clock = metrics_lib.Throughput()
  terminated = _catch_sigterm()
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
          **config_lib.loader_options(config),
      ),
      sharding.batch_sharding(mesh),
  )
  pending: tuple[int, dict] | None = None
  last_good = start

  def log(pending) -> None:
    """Writes metrics of an earlier step, by now computed."""
    if pending is None:
      return
    step, values = pending
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    rate = clock.rate(step * config.batch_size)
    _check_finite(values, last_good, step, workdir, checkpoints)
    _check_replaced(values, step, config)
    if rate is not None:
      values["train/examples_per_second"] = rate
    writer.write(step, values)
    bar.update(step, loss=values["train/loss"], examples_per_second=rate)

  clock.start(start * config.batch_size)
  with bar:
    for step in range(start, config.total_steps + 1):
      last = step == config.total_steps
      stop = _any_process(terminated)
      due = (
          []
          if step == start and not last
          else [
              n for n, (every, _) in evals.items() if last or step % every == 0
          ]
      )
      save = (
          last or stop or (step > start and step % config.ckpt.save_steps == 0)
      )
      if due or save:
        log(pending)
        pending = None
        with clock.pause():
          evaluate(step, due)
          if save:
            checkpoints.save(step, state, spec)
            last_good = step
      if last or stop:
        break
      batch = next(batches)
      with jax.transfer_guard("disallow"):
        state, values = run.train_step(state, batch)
      log(pending)
      pending = None
      if (step + 1) % config.log_steps == 0:
        # Of the step just made, and computed behind it on the device.
        pending = (step + 1, values | run.learning_rates(step))
  checkpoints.close()
  writer.close()
  if step < config.total_steps:
    print(
        f"Stopped by SIGTERM at step {step}, which is saved. The same command"
        " goes on from there."
    )
    return 0
  _show(config, workdir, evals, results, main_process)
  return 0


def _prepare(workdir: str | Path) -> Path:
  """The workdir, made and known to be writable."""
  workdir = Path(workdir).expanduser()
  probe = workdir / f".write_test_{jax.process_index()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise UserError(
        f"The workdir must be a folder that can be written to: {workdir}"
        f" ({e.strerror}). Give another --workdir."
    ) from None
  return workdir


def _spec(config, tokenizer: Tokenizer) -> dict:
  """What the weights depend on."""
  return {
      "image": config.preprocess.image,
      "text": config.preprocess.text,
      "image_size": config.image_size,
      "text_len": config.text_len,
      "tokenizer_digest": tokenizer.digest,
  }


def _keep_tokenizer(tokenizer: Tokenizer, workdir: Path) -> None:
  """Copies the tokenizer beside the weights, in one move."""
  part = workdir / "tokenizer.part"
  shutil.copyfile(tokenizer.path, part)
  part.replace(workdir / "tokenizer.model")


def _make_eval(section):
  options = {
      k: v for k, v in section.items() if k not in ("type", "every_steps")
  }
  return EVALUATORS[section.type](**options)


def _restore_or_init(run: Run, checkpoints, spec: Mapping, eval_only: bool):
  found = checkpoints.restore(run.state_shapes)
  if found is None:
    if eval_only:
      raise UserError("--eval_only needs a checkpoint; the workdir has none.")
    return run.init(), 0
  state, saved = found
  for key, value in spec.items():
    if saved.get(key) != value:
      raise UserError(
          f"The checkpoint was trained with {key} = {saved.get(key)!r}, this"
          f" config has {value!r}. Restore the former, or use a new workdir."
      )
  return state, int(state.step)


def _to_device(batches: Iterator[Mapping], to, ahead: int = 2):
  """Global arrays of local batches, `ahead` of them on the way."""
  queue: collections.deque = collections.deque()
  for batch in itertools.chain(batches, [None] * ahead):
    if batch is not None:
      queue.append(
          {
              k: jax.make_array_from_process_local_data(to, batch[k])
              for k in ("image", "text", "replaced")
          }
      )
    if queue and (len(queue) > ahead or batch is None):
      yield queue.popleft()


def _catch_sigterm() -> list[int]:
  """A list that is no longer empty once SIGTERM has come."""
  caught: list[int] = []
  signal.signal(signal.SIGTERM, lambda signum, frame: caught.append(signum))
  return caught


def _any_process(terminated: list[int]) -> bool:
  if jax.process_count() == 1:
    return bool(terminated)
  flags = multihost_utils.process_allgather(np.int32(bool(terminated)))
  return bool(np.any(flags))


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
            picture=show(evaluator.source[e.index], np.random.default_rng(0))[
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
