"""python -m siglip_jax.main --config=configs/emoji.py --workdir=runs/emoji."""

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
      "workdir", None, "Folder of the run; started again on it, a run resumes."
  )
  flags.DEFINE_bool(
      "eval_only", False, "Evaluate the newest checkpoint of the workdir."
  )
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Trains, or resumes, or evaluates."""
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
