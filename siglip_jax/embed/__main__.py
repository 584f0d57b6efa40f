"""Encodes a data set once with a locked image tower, to train on the result.

  python -m siglip_jax.embed --config=configs/l256_lit.py:tower=WEIGHTS \
      --split=train --out=DIR [--config.key=value ...]

If it is killed, the same command resumes it: finished shards are kept, and the
others are encoded. A shard that was unfinished is encoded from its start.
"""

from collections.abc import Sequence

from absl import flags
import jax

from siglip_jax import cli
from siglip_jax.config import check as config_check
from siglip_jax.data import embeddings
from siglip_jax.embed import encode
from siglip_jax.errors import UserError
from siglip_jax.inference import flags as model_flags
from siglip_jax.multihost import join


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string("out", None, "Folder to write.")
  flags.DEFINE_string("split", "train", "Split of config.data to encode.")
  flags.DEFINE_string(
      "model",
      None,
      "Workdir of a trained run whose image tower is used instead of"
      " config.init's.",
  )
  model_flags.define_step()
  flags.DEFINE_enum(
      "dtype",
      None,
      embeddings.DTYPES,
      "dtype of the stored embeddings; config.model.dtype by default.",
  )
  flags.DEFINE_integer(
      "crops",
      0,
      "Embeddings per image, each of a crop drawn by config.data.pp. 0 stores"
      " one, of the image as config.preprocess.image makes it; evaluation needs"
      " this.",
  )
  flags.DEFINE_integer("batch_size", 256, "Images per batch on each host.")
  flags.DEFINE_integer("shard_size", 16_384, "Examples per file.")
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Encodes the data set."""
  del argv
  values = flags.FLAGS
  if values.config is None or not values.out:
    raise UserError("Both --config=configs/NAME.py and --out=DIR are needed.")
  options = encode.Options(
      split=values.split,
      model=values.model,
      step=values.step,
      dtype=values.dtype,
      crops=values.crops,
      batch_size=values.batch_size,
      shard_size=values.shard_size,
  )
  config, out = cli.config(), values.out
  return join.run_all(join.cluster(), lambda: _embed(config, out, options))


def _embed(config, out: str, options: encode.Options) -> int:
  manifest = encode.embed(config, out, options)
  if jax.process_index() == 0:
    print(
        f"{sum(manifest['counts'])} of {manifest['examples']} examples are in"
        f" {out} ({manifest['dtype']}, width {manifest['dim']},"
        f" {max(manifest['crops'], 1)} each; {manifest['skipped']} skipped)."
    )
  return 0


if __name__ == "__main__":
  cli.main(main, define_flags)
