"""python -m siglip_jax.main --config=configs/emoji.py --workdir=runs/emoji."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from siglip_jax import cli
from siglip_jax import train
from siglip_jax.errors import UserError
from siglip_jax.multihost import join

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:arg=value,...]", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; started again on it, a run resumes."
)
_EVAL_ONLY = flags.DEFINE_bool(
    "eval_only", False, "Evaluate the newest checkpoint of the workdir."
)
_CLUSTER = join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Trains, or resumes, or evaluates."""
  del argv
  workdir = _WORKDIR.value
  if _CONFIG.value is None or not workdir:
    raise UserError(
        "Both --config=configs/NAME.py and --workdir=DIR are needed."
    )
  config = cli.config_of(_CONFIG)
  return join.run(
      _CLUSTER(),
      lambda: train.train_and_evaluate(
          config, workdir, eval_only=_EVAL_ONLY.value
      ),
  )


if __name__ == "__main__":
  cli.run(main)
