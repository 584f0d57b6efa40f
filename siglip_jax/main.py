"""Trains and evaluates a config.

  python -m siglip_jax.main --config=configs/emoji.py --workdir=runs/emoji

The same command again resumes the run. A second process can evaluate the run's
checkpoints beside it:

  python -m siglip_jax.main --config=C --workdir=W --noevaluate
  python -m siglip_jax.main --config=C --workdir=W --watch
"""

from collections.abc import Sequence

from absl import flags

from siglip_jax import cli
from siglip_jax import train
from siglip_jax.config import check as config_check
from siglip_jax.errors import UserError
from siglip_jax.evals import beside
from siglip_jax.multihost import join


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string(
      "workdir", None, "The run's folder; starting again on it resumes the run."
  )
  flags.DEFINE_bool(
      "eval_only", False, "Only evaluate a checkpoint of the workdir."
  )
  flags.DEFINE_integer(
      "step", None, "The checkpoint for --eval_only, by default the newest."
  )
  flags.DEFINE_bool(
      "evaluate", True, "Run the evaluations while training; or see --watch."
  )
  flags.DEFINE_bool(
      "watch", False, "Only evaluate each new checkpoint that a run saves."
  )
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Trains, resumes training, or only evaluates."""
  del argv
  options = flags.FLAGS
  if options.config is None or not options.workdir:
    raise UserError(
        "Both --config=configs/NAME.py and --workdir=DIR are needed."
    )
  if options.watch and options.eval_only:
    raise UserError("--watch and --eval_only exclude each other: give one.")
  if not options.evaluate and (options.watch or options.eval_only):
    raise UserError(
        "--noevaluate is for training; --watch and --eval_only evaluate."
    )
  if options.step is not None and not options.eval_only:
    raise UserError("--step is for --eval_only; a run resumes the newest step.")
  config, workdir = cli.config(), options.workdir

  def job() -> int:
    if options.watch:
      return beside.watch(config, workdir)
    if options.eval_only:
      return beside.evaluate_only(config, workdir, step=options.step)
    return train.train_and_evaluate(config, workdir, evaluate=options.evaluate)

  return join.run_all(join.cluster(), job)


if __name__ == "__main__":
  cli.main(main, define_flags)
