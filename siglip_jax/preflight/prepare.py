"""Prepares a run: opens and checks everything, and computes nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_collections

from siglip_jax import metrics as metrics_lib
from siglip_jax import sharding
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import sources as config_sources
from siglip_jax.config import strings
from siglip_jax.data import blocks
from siglip_jax.data import opening
from siglip_jax.data import order
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.loader.examples import Share
from siglip_jax.data.sources import Source
from siglip_jax.embed import tower
from siglip_jax.evals import EVALUATORS
from siglip_jax.evals.scores import Evaluator
from siglip_jax.multihost.messages import Peers
from siglip_jax.preflight import checks
from siglip_jax.preflight import probe
from siglip_jax.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """A run that has passed its checks and computed nothing yet.

  Attributes:
    config: the validated config.
    workdir: the run's folder, which can be written to.
    peers: all processes.
    source: the training data.
    pp: the parsed preprocessing strings and the tokenizer.
    evaluators: name -> evaluator.
    run: the model, the state's shapes and the step, on the mesh.
    spec: what the weights depend on; saved with them.
    facts: the facts that preflight found on each process, by index.
    tried: evaluator's name -> digest of its images, all of which can be read.
  """

  config: ml_collections.ConfigDict
  workdir: Path
  peers: Peers
  source: Source
  pp: strings.Preprocessing
  evaluators: dict[str, Evaluator]
  run: Run
  spec: dict
  facts: list[dict[str, Any]]
  tried: dict[str, str]

  @property
  def main(self) -> bool:
    """Whether this is the process that writes and prints."""
    return self.peers.index == 0

  @property
  def eval_digests(self) -> dict[str, str]:
    """Evaluator's name -> digest of its images, texts and labels."""
    facts = self.facts[0]
    return {name: facts[f"config.evals.{name}"] for name in self.evaluators}


def prepare(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    peers: Peers,
    *,
    trains: bool = True,
    evaluates: bool = True,
) -> Prepared:
  """Opens the data and the workdir, and checks for all foreseeable failures.

  Args:
    config: a validated config.
    workdir: the run's folder, created if it is missing.
    peers: all processes.
    trains: whether the run will train, and so save checkpoints.
    evaluates: whether it will evaluate while it trains. If so, every image of
      the evaluations is tried, unless an earlier start has done that.

  Raises:
    UserError: the data, the evaluations or the workdir cannot be used.
    TryAgain: another process is missing.
  """
  if peers.index:
    opening.silence()
  folder = workdir_lib.prepare(workdir, peers.index)
  source = config_sources.train_source(config)
  if isinstance(source, Embeddings):
    tower.check_embeddings(config, source)
  pp = strings.make(config, source)
  evaluators = {
      name: _make_eval(section, config, source)
      for name, section in config.evals.items()
  }
  mesh = sharding.make_mesh(**config.mesh)
  lanes = _check_order(config, source, peers)
  firsts = getattr(source, "firsts", None)  # of a mixture
  run = Run(config, mesh, pp.value_range, len(source), firsts)
  digest = pp.tokenizer.digest
  facts = checks.check(
      run,
      source,
      folder,
      peers,
      evaluators=evaluators,
      tokenizer_digest=digest,
      saves=trains,
      evaluates=evaluates,
  )
  starts = workdir_lib.read_starts(folder)
  tried = starts[-1].get("tried", {}) if starts else {}
  if trains and "wandb" in config and not peers.index:
    metrics_lib.check_wandb(**config.wandb.to_dict())
  if trains and evaluates:
    tried = probe.check(
        evaluators,
        pp.image,
        peers,
        image_size=config.image_size,
        num_threads=config.data.num_threads,
        known=tried,
    )
  return Prepared(
      config=config,
      workdir=folder,
      peers=peers,
      source=source,
      pp=pp,
      evaluators=evaluators,
      run=run,
      spec=_spec(config, digest, source)
      | {"data_digest": facts[0]["data"], "lanes": lanes},
      facts=facts,
      tried=tried,
  )


def _check_order(config, source: Source, peers: Peers) -> int:
  """Returns the number of lanes, if the data can be read in this order."""
  options = config_sources.loader_options(config)
  made = order.make(
      source,
      seed=config.seed,
      order=options.get("order"),
      batch_size=config.batch_size,
  )
  Share(
      first=0,
      batches=0,
      batch_size=config.batch_size,
      lanes=made.lanes,
      process_count=peers.count,
  )
  given = getattr(source, "blocks_options", {})
  blocks.check(given.get("cache_gb"), given.get("in_flight", 16))
  return made.lanes


def _spec(config, tokenizer_digest: str, source: Source) -> dict:
  """Returns what the weights depend on."""
  spec = {
      "image": config.preprocess.image,
      "text": config.preprocess.text,
      "image_size": config.image_size,
      "text_len": config.text_len,
      "tokenizer_digest": tokenizer_digest,
      "model": json.loads(json.dumps(config.model.to_dict())),
  }
  if isinstance(source, Embeddings):
    spec["tower_digest"] = source.manifest["tower_digest"]
  return spec


def _make_eval(section, config, source: Source) -> Evaluator:
  options = {
      k: v for k, v in section.items() if k not in ("type", "every_steps")
  }
  evaluator = EVALUATORS[section.type](**options)
  if isinstance(source, Embeddings):
    digest = source.manifest["tower_digest"]
    tower.check_evaluation(config, evaluator.source, digest)
  return evaluator
