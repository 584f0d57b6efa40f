"""Prepares a run: opens and checks everything, and computes nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections

from siglip_jax import sharding
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import sources as config_sources
from siglip_jax.config import strings
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.sources import Source
from siglip_jax.embed import tower
from siglip_jax.evals import EVALUATORS
from siglip_jax.evals.scores import Evaluator
from siglip_jax.multihost.messages import Peers
from siglip_jax.preflight import checks
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

  @property
  def main(self) -> bool:
    """Whether this is the process that writes and prints."""
    return self.peers.index == 0


def prepare(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    peers: Peers,
) -> Prepared:
  """Opens the data and the workdir, and checks for all foreseeable failures.

  Args:
    config: a validated config.
    workdir: the run's folder, created if it is missing.
    peers: all processes.

  Raises:
    UserError: the data, the evaluations or the workdir cannot be used.
    TryAgain: another process is missing.
  """
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
  run = Run(config, mesh, pp.value_range, len(source))
  digest = pp.tokenizer.digest
  facts = checks.check(run, source, folder, peers, tokenizer_digest=digest)
  return Prepared(
      config=config,
      workdir=folder,
      peers=peers,
      source=source,
      pp=pp,
      evaluators=evaluators,
      run=run,
      spec=_spec(config, digest, source),
      facts=facts,
  )


def _spec(config, tokenizer_digest: str, source: Source) -> dict:
  """Returns what the weights depend on."""
  spec = {
      "image": config.preprocess.image,
      "text": config.preprocess.text,
      "image_size": config.image_size,
      "text_len": config.text_len,
      "tokenizer_digest": tokenizer_digest,
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
