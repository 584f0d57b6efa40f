"""Checks of a run on all its hosts, before it is started.

  python -m siglip_jax.preflight --config=configs/NAME.py --workdir=DIR

Training makes the same checks itself; this makes no others and ends.
"""

from collections.abc import Sequence

from absl import flags
import ml_collections
from ml_collections import config_flags

from siglip_jax import cli
from siglip_jax import sharding
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import check as config_check
from siglip_jax.config import sources as config_sources
from siglip_jax.config import strings
from siglip_jax.errors import DONE
from siglip_jax.errors import UserError
from siglip_jax.multihost import join
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight import checks
from siglip_jax.run import Run

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:arg=value,...]", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CLUSTER = join.define_flags()
_SECONDS = 600.0  # for everything


def main(argv: Sequence[str]) -> int:
  """Checks, and prints what was found."""
  del argv
  config = cli.config_of(_CONFIG)
  workdir = _WORKDIR.value
  if not workdir:
    raise UserError("--workdir=DIR is needed.")
  return join.run(_CLUSTER(), lambda: _check(config, workdir))


def _check(config: ml_collections.ConfigDict, folder: str) -> int:
  config_check.validate(config)
  phases, peers = Phases(), Peers()
  # A bucket that hangs when it is read must not hold everyone up.
  with Watchdog(phases, peers, start_seconds=_SECONDS):
    return _look(config, folder, peers)


def _look(config: ml_collections.ConfigDict, folder: str, peers: Peers) -> int:
  workdir = workdir_lib.prepare(folder, peers.index)
  source = config_sources.train_source(config)
  pp = strings.make(config, source)
  mesh = sharding.make_mesh(**config.mesh)
  run = Run(config, mesh, pp.value_range, len(source))
  digest = pp.tokenizer.digest
  found = checks.check(run, source, workdir, peers, tokenizer_digest=digest)
  if peers.index == 0:
    for i, f in enumerate(found):
      print(
          f"worker {i} ({f['host']}): code {f['code']}, config {f['config']},"
          f" {f['examples']} examples, {f['free'] / 2**30:.1f} GiB free"
      )
    print(f"{len(found)} of {len(found)} ready, {mesh.size} devices.")
  return DONE


if __name__ == "__main__":
  cli.run(main)
