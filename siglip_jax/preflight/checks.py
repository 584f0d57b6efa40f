"""Preflight checks: finds foreseeable failures before anything is compiled.

Are all processes there? Do they have the same code, config and data, and share
the workdir? Does the workdir have room? Errors name the worker at fault.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import math
from pathlib import Path
import secrets
import shutil
import socket
import time
from typing import Any

import jax
import ml_collections

from siglip_jax.data import sources
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals.scores import Evaluator
from siglip_jax.multihost.messages import Peers
from siglip_jax.run import Run
from siglip_jax.weights.workdirs import kept_steps

_SECONDS = 120.0  # time limit for the slowest process to answer
_TOKEN_SECONDS = 10.0  # network file systems cache folders for a while


def check(
    run: Run,
    source: Source,
    workdir: Path,
    peers: Peers,
    *,
    evaluators: Mapping[str, Evaluator],
    tokenizer_digest: str,
    saves: bool = True,
    evaluates: bool = True,
) -> list[dict[str, Any]]:
  """Runs all checks, and returns the facts of each process, by index.

  Args:
    run: the run, not initialised.
    source: the training data.
    workdir: the run's folder, which exists and can be written to.
    peers: all processes.
    evaluators: name -> evaluator.
    tokenizer_digest: digest of this process's tokenizer file.
    saves: whether the run will save checkpoints, which need room.
    evaluates: whether the run will evaluate while it trains.

  Raises:
    UserError: a check failed; the message says which, and on which worker.
    TryAgain: a process did not answer within two minutes.
  """
  facts = peers.gather(
      "preflight",
      _facts(run.config, source, workdir)
      | {"tokenizer": tokenizer_digest, "evaluates": evaluates}
      | {_field(name): eval_digest(e) for name, e in evaluators.items()},
      seconds=_SECONDS,
  )
  for key, rule in _EQUAL.items():
    _check_equal(key, rule, facts)
  for name in evaluators:
    _check_equal(_field(name), _EQUAL_EVALS.format(_field(name)), facts)
  _check_shared(workdir, peers, facts)
  if saves:
    _check_room(run, facts)
  return facts


_EQUAL = {
    "code": (
        "All workers must run the same code; copy it to all of them again"
        " (digest of the package)"
    ),
    "config": (
        "All workers must run the same config; give the same flags and files"
        " (digest)"
    ),
    "examples": "All workers must see the same training data (examples)",
    "data": (
        "All workers must see the same training data; copy them to all of them"
        " again (digest of keys and texts)"
    ),
    "evaluates": (
        "All workers must evaluate, or none; give --noevaluate to all or none"
        " (whether they do)"
    ),
    "tokenizer": (
        "All workers must see the same tokenizer; copy its file again (digest)"
    ),
}
_EQUAL_EVALS = (
    "All workers must see the same data for {}; copy them to all of them again"
    " (digest of keys, texts and labels)"
)


def _field(name: str) -> str:
  """Returns the field of an evaluator, which also is its key in the facts."""
  return f"config.evals.{name}"


def _facts(config, source: Source, workdir: Path) -> dict[str, Any]:
  _check_readable(source)
  return {
      "host": socket.gethostname(),
      "code": code_digest(),
      "config": config_digest(config),
      "examples": len(source),
      "data": sources.digest(source),
      "saved": len(kept_steps(workdir)),
      "free": shutil.disk_usage(workdir).free,
  }


def code_digest() -> str:
  """Returns a digest of all Python files of this package."""
  root, digest = Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(str(path.relative_to(root)).encode() + b"\0")
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def config_digest(config: ml_collections.ConfigDict) -> str:
  """Returns a digest of all values of a config."""
  text = json.dumps(config.to_dict(), sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def eval_digest(evaluator: Evaluator) -> str:
  """Returns a digest of an evaluator's source, texts and labels."""
  digest = hashlib.sha256(sources.digest(evaluator.source).encode())
  if dataclasses.is_dataclass(evaluator):
    for field in dataclasses.fields(evaluator):
      value = getattr(evaluator, field.name)
      try:
        digest.update(json.dumps([field.name, value]).encode())
      except TypeError:
        pass  # the source, or something else that is not data
  return digest.hexdigest()[:12]


def _check_readable(source: Source) -> None:
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  try:
    sources.readable_record(source)
  except (OSError, ValueError) as e:  # also of damaged texts and images
    raise UserError(
        f"The training data must be readable: {source.key(0)}, the first"
        f" example, is not ({str(e).rstrip('.')})."
    ) from None


def _check_equal(key: str, rule: str, facts: Sequence[dict]) -> None:
  values = [json.dumps(f[key]) for f in facts]
  usual = max(values, key=values.count)
  others = [
      f"{values[i]} on worker {i} ({facts[i]['host']})"
      for i, value in enumerate(values)
      if value != usual
  ]
  if others:
    raise UserError(f"{rule}; got {usual}, but {', '.join(others)}.")


def _check_shared(workdir: Path, peers: Peers, facts: Sequence[dict]) -> None:
  """Checks that all processes see a file that process 0 writes."""
  name = f".preflight_{secrets.token_hex(8)}"
  if peers.index == 0:
    (workdir / name).touch()
  try:
    names = peers.gather("token", name, seconds=_SECONDS)
    token = workdir / names[0]
    visible = _wait(token.exists, _TOKEN_SECONDS)
    sights = peers.gather("token_seen", visible, seconds=_SECONDS)
  finally:
    (workdir / name).unlink(missing_ok=True)
  blind = [i for i, visible in enumerate(sights) if not visible]
  if blind:
    hosts = ", ".join(f"worker {i} ({facts[i]['host']})" for i in blind)
    raise UserError(
        "Several hosts need a --workdir that all share, such as a mounted"
        f" bucket or network folder: what worker 0 wrote to {workdir} was not"
        f" seen by {hosts}."
    )


def _check_room(run: Run, facts: Sequence[dict]) -> None:
  """Checks for room for the checkpoints still to be saved, at least one."""
  size = sum(
      math.prod(x.shape) * x.dtype.itemsize
      for x in jax.tree.leaves(run.state_shapes)
  )
  # Up to keep + 1 exist at once: an old one is deleted after the new is whole.
  need = size * max(run.config.ckpt.keep + 1 - facts[0]["saved"], 1)
  if facts[0]["free"] < need:
    raise UserError(
        "The workdir must have room for"
        f" {need / 2**30:.2f} GiB of checkpoints; there are"
        f" {facts[0]['free'] / 2**30:.2f} GiB. Free some, or lower"
        " config.ckpt.keep."
    )


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
  end = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
  return True
