"""What can be known to fail is found before anything is compiled.

Are all processes there, with the same code, config and data; do they share the
workdir; is there room? What is wrong names the worker at fault.
"""

from collections.abc import Callable
from collections.abc import Sequence
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

from siglip_jax.data.images import ImageError
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.run import Run

_SECONDS = 120.0  # for the slowest to answer
_TOKEN_SECONDS = 10.0  # network file systems remember for a while


def check(
    run: Run,
    source: Source,
    workdir: Path,
    peers: Peers,
    *,
    tokenizer_digest: str,
) -> list[dict[str, Any]]:
  """All checks; returns what each process found, by process.

  Args:
    run: not initialised.
    source: the training data.
    workdir: prepared.
    peers: all processes.
    tokenizer_digest: of this process's file.

  Raises:
    UserError: what is wrong, and on which worker.
    TryAgain: a process did not answer within two minutes.
  """
  found = peers.gather(
      "preflight",
      _facts(run.config, source, workdir) | {"tokenizer": tokenizer_digest},
      seconds=_SECONDS,
  )
  for key, rule in _EQUAL.items():
    _check_equal(key, rule, found)
  _check_shared(workdir, peers, found)
  _check_room(run, found)
  return found


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
    "tokenizer": (
        "All workers must see the same tokenizer; copy its file again (digest)"
    ),
}


def _facts(config, source: Source, workdir: Path) -> dict[str, Any]:
  _read_one(source)
  saved = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
  return {
      "host": socket.gethostname(),
      "code": code_digest(),
      "config": config_digest(config),
      "examples": len(source),
      "saved": len(saved),
      "free": shutil.disk_usage(workdir).free,
  }


def code_digest() -> str:
  """Of all Python files of this package."""
  root, digest = Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(str(path.relative_to(root)).encode() + b"\0")
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def config_digest(config: ml_collections.ConfigDict) -> str:
  """Of all values of a config."""
  text = json.dumps(config.to_dict(), sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_one(source: Source) -> None:
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  try:
    source[0]
  except (OSError, ImageError) as e:
    raise UserError(
        f"The training data must be readable: {source.key(0)}, the first"
        f" example, is not ({e})."
    ) from None


def _check_equal(key: str, rule: str, found: Sequence[dict]) -> None:
  values = [json.dumps(f[key]) for f in found]
  usual = max(values, key=values.count)
  others = [
      f"{values[i]} on worker {i} ({found[i]['host']})"
      for i, value in enumerate(values)
      if value != usual
  ]
  if others:
    raise UserError(f"{rule}; got {usual}, but {', '.join(others)}.")


def _check_shared(workdir: Path, peers: Peers, found: Sequence[dict]) -> None:
  """A file that process 0 writes must be seen by all."""
  name = f".preflight_{secrets.token_hex(8)}"
  if peers.index == 0:
    (workdir / name).touch()
  try:
    said = peers.gather("token", name, seconds=_SECONDS)
    token = workdir / said[0]
    seen = _wait(token.exists, _TOKEN_SECONDS)
    sights = peers.gather("token_seen", seen, seconds=_SECONDS)
  finally:
    (workdir / name).unlink(missing_ok=True)
  blind = [i for i, s in enumerate(sights) if not s]
  if blind:
    hosts = ", ".join(f"worker {i} ({found[i]['host']})" for i in blind)
    raise UserError(
        "Several hosts need a --workdir that all share, such as a mounted"
        f" bucket or network folder: what worker 0 wrote to {workdir} was not"
        f" seen by {hosts}."
    )


def _check_room(run: Run, found: Sequence[dict]) -> None:
  """Room for one checkpoint more than there are, up to those that are kept."""
  size = sum(
      math.prod(x.shape) * x.dtype.itemsize
      for x in jax.tree.leaves(run.state_shapes)
  )
  # An old one is deleted after the new one is whole.
  need = size * max(run.config.ckpt.keep + 1 - found[0]["saved"], 1)
  if found[0]["free"] < need:
    raise UserError(
        "The workdir must have room for"
        f" {need / 2**30:.2f} GiB of checkpoints; there are"
        f" {found[0]['free'] / 2**30:.2f} GiB. Free some, or lower"
        " config.ckpt.keep."
    )


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
  end = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
  return True
