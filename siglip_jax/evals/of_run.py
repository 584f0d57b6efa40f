"""The evaluations of a prepared run: made, and shown at its end."""

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from siglip_jax import metrics as metrics_lib
from siglip_jax import progress as progress_lib
from siglip_jax import report
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import sources as config_sources
from siglip_jax.evals.evaluations import Evaluations
from siglip_jax.inference.encoder import BatchEncoder
from siglip_jax.multihost.preemption import Preemption
from siglip_jax.preflight.prepare import Prepared


def make(
    p: Prepared,
    params: dict,
    *,
    bar: progress_lib.Progress,
    writer: metrics_lib.MetricWriter,
    preemption: Preemption,
    folder: Path,
    asked: bool = False,
) -> Evaluations:
  """Returns the evaluations of a prepared run.

  Args:
    p: the run.
    params: parameters on the mesh; `Evaluations.run` replaces them.
    bar: shows the progress.
    writer: writes the scores.
    preemption: leaves an evaluation at its next batch when the run is to stop.
    folder: folder of the writer's metrics.
    asked: whether somebody asked for the scores, and not the run.
  """
  encoder = BatchEncoder(
      model=p.run.model,
      params=params,
      mesh=p.run.mesh,
      image=p.pp.image,
      text=p.pp.text,
      batch_size=p.config.batch_size,
      track=lambda batches, n: bar.track(preemption.between(batches), n),
      loader=config_sources.loader_options(p.config),
  )
  read = metrics_lib.read if asked else metrics_lib.read_own
  mark = {metrics_lib.ASKED: 1.0} if asked else {}
  return Evaluations(
      p.evaluators,
      encoder,
      history=lambda: read(folder),
      write=lambda step, values: writer.write(step, {**values, **mark}),
      evaluating=bar.evaluating,
  )


def show(p: Prepared, evals: Evaluations, folder: Path | None) -> None:
  """Prints the final table, and writes report.html unless `folder` is None.

  A report without scores does not replace another one.
  """
  if scores := evals.scores():
    progress_lib.final_table(scores)
  if folder is None or (not scores and (folder / "report.html").exists()):
    return
  image = p.config.preprocess.image
  gallery = {
      name: report.cards(evals.evaluators[name], result, image)
      for name, result in evals.results.items()
      if result.gallery
  }
  path = report.write_report(
      folder,
      title=p.workdir.name,
      history=metrics_lib.read(folder),
      scores=scores,
      gallery=gallery,
      starts=workdir_lib.read_starts(p.workdir),
  )
  print(f"Report: {path}")


def wandb(config: ml_collections.ConfigDict) -> dict[str, Any] | None:
  """Returns the section config.wandb, or None if the config has none."""
  return config.wandb.to_dict() if "wandb" in config else None


def early_stop(
    config: ml_collections.ConfigDict, history: Sequence[Mapping[str, Any]]
) -> int | None:
  """Returns the step at which config.early_stopping ends a run, or None."""
  if "early_stopping" not in config:
    return None
  return metrics_lib.stopped(history, **config.early_stopping)
