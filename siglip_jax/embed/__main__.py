"""Encodes a data set with a locked image tower, once, to train on ever after.

  python -m siglip_jax.embed --config=configs/l256_lit.py:tower=WEIGHTS \
      --split=train --out=DIR [--config.key=value ...]

Killed and started again, it goes on: finished shards stay as they are, and an
unfinished one was never there.
"""

from collections.abc import Sequence

from absl import flags
import jax

from siglip_jax import cli
from siglip_jax.config import check as config_check
from siglip_jax.data import embeddings
from siglip_jax.embed import encode
from siglip_jax.errors import UserError
from siglip_jax.multihost import join


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string("out", None, "The folder to write.")
  flags.DEFINE_string("split", "train", "The split of config.data to encode.")
  flags.DEFINE_string(
      "model",
      None,
      "A trained run whose image tower to use, not config.init's.",
  )
  flags.DEFINE_enum(
      "dtype",
      None,
      embeddings.DTYPES,
      "Type of the stored numbers; config.model.dtype by default.",
  )
  flags.DEFINE_integer(
      "crops",
      0,
      "Embeddings of each image, as config.data.pp draws them; 0: one, as"
      " config.preprocess.image makes it, which evaluation needs.",
  )
  flags.DEFINE_integer("batch_size", 256, "Images at a time, a host.")
  flags.DEFINE_integer("shard_size", 16_384, "Examples a file.")
  join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Embeds."""
  del argv
  values = flags.FLAGS
  if values.config is None or not values.out:
    raise UserError("Both --config=configs/NAME.py and --out=DIR are needed.")
  options = encode.Options(
      split=values.split,
      model=values.model,
      dtype=values.dtype,
      crops=values.crops,
      batch_size=values.batch_size,
      shard_size=values.shard_size,
  )
  config, out = cli.config(), values.out
  return join.run_all(join.cluster(), lambda: _embed(config, out, options))


def _embed(config, out: str, options: encode.Options) -> int:
  found = encode.embed(config, out, options)
  if jax.process_index() == 0:
    print(
        f"{sum(found['counts'])} of {found['examples']} examples are in"
        f" {out} ({found['dtype']}, width {found['dim']},"
        f" {max(found['crops'], 1)} each; {found['skipped']} skipped)."
    )
  return 0


if __name__ == "__main__":
  cli.main(main, define_flags)
