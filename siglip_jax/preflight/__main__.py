"""Checks a run on all its hosts without starting it.

  python -m siglip_jax.preflight --config=configs/NAME.py --workdir=DIR

Training makes the same checks before it starts. This command makes only the
checks, and no others.
"""

from collections.abc import Sequence

from absl import flags
import ml_collections

from siglip_jax import cli
from siglip_jax.config import check as config_check
from siglip_jax.errors import DONE
from siglip_jax.errors import UserError
from siglip_jax.multihost import join
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight import captions
from siglip_jax.preflight.prepare import prepare

_SECONDS = 600.0  # least time limit for all checks together


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string("workdir", None, "The run's folder.")
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Runs the checks, and prints statistics and each worker's facts."""
  del argv
  config = cli.config()
  workdir = flags.FLAGS.workdir
  if not workdir:
    raise UserError("--workdir=DIR is needed.")
  return join.run_all(join.cluster(), lambda: _check(config, workdir))


def _check(config: ml_collections.ConfigDict, folder: str) -> int:
  config_check.validate(config)
  phases, peers = Phases(), Peers()
  # A bucket that hangs when read must not block the workers forever.
  seconds = max(_SECONDS, config.watchdog.start_seconds)
  with Watchdog(phases, peers, start_seconds=seconds):
    return _prepare_and_print(config, folder, peers)


def _prepare_and_print(
    config: ml_collections.ConfigDict, folder: str, peers: Peers
) -> int:
  prepared = prepare(config, folder, peers)
  if prepared.main:
    captions.report(captions.look(config, prepared.source, prepared.pp.train))
    facts = prepared.facts
    for i, f in enumerate(facts):
      print(
          f"worker {i} ({f['host']}): code {f['code']}, config {f['config']},"
          f" data {f['data']}, {f['examples']} examples,"
          f" {f['free'] / 2**30:.1f} GiB free"
      )
    devices = prepared.run.mesh.size
    print(f"{len(facts)} of {len(facts)} ready, {devices} devices.")
  return DONE


if __name__ == "__main__":
  cli.main(main, define_flags)
