"""python -m siglip_jax.main --config=configs/emoji.py --workdir=runs/emoji."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from siglip_jax import cli
from siglip_jax import train
from siglip_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:arg=value,...]", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; started again on it, a run resumes."
)
_EVAL_ONLY = flags.DEFINE_bool(
    "eval_only", False, "Evaluate the newest checkpoint of the workdir."
)


def main(argv: Sequence[str]) -> int:
  """Trains, or resumes, or evaluates."""
  del argv
  config = _CONFIG.value
  if config is None or not _WORKDIR.value:
    raise UserError(
        "Both --config=configs/NAME.py and --workdir=DIR are needed."
    )
  try:
    # Of a file it could not read, ml_collections tells at the first use.
    config.to_dict()
  except AttributeError:
    raise UserError(
        "get_config in the file of --config must return a ConfigDict; got"
        f" {config!r}."
    ) from None
  except OSError as e:
    reason = str(e).splitlines()[-1].split("failure to load: ")[-1].strip()
    raise UserError(
        f"--config must name a Python file that can be read: {reason}."
    ) from None
  return train.train_and_evaluate(
      config, _WORKDIR.value, eval_only=_EVAL_ONLY.value
  )


if __name__ == "__main__":
  cli.run(main)
