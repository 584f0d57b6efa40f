"""Trains and evaluates a config.

  python -m siglip_jax.main --config=configs/emoji.py --workdir=runs/emoji

The same command again resumes the run.
"""

from collections.abc import Sequence

from absl import flags

from siglip_jax import cli
from siglip_jax import train
from siglip_jax.config import check as config_check
from siglip_jax.errors import UserError
from siglip_jax.multihost import join


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string(
      "workdir", None, "The run's folder; starting again on it resumes the run."
  )
  flags.DEFINE_bool(
      "eval_only", False, "Only evaluate the workdir's newest checkpoint."
  )
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Starts or resumes training, or only evaluates."""
  del argv
  options = flags.FLAGS
  if options.config is None or not options.workdir:
    raise UserError(
        "Both --config=configs/NAME.py and --workdir=DIR are needed."
    )
  config = cli.config()
  return join.run_all(
      join.cluster(),
      lambda: train.train_and_evaluate(
          config, options.workdir, eval_only=options.eval_only
      ),
  )


if __name__ == "__main__":
  cli.main(main, define_flags)
