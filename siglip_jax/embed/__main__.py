"""Encodes a data set with a locked image tower, once, to train on ever after.

  python -m siglip_jax.embed --config=configs/l256_lit.py:tower=WEIGHTS \
      --split=train --out=DIR [--config.key=value ...]

Killed and started again, it goes on: finished shards stay as they are, and an
unfinished one was never there.
"""

from collections.abc import Sequence

from absl import flags
import jax
from ml_collections import config_flags

from siglip_jax import cli
from siglip_jax.data import embeddings
from siglip_jax.embed import encode
from siglip_jax.errors import UserError
from siglip_jax.multihost import join

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:arg=value,...]", lock_config=True
)
# Another command's module, which is imported for its class, defines `out`, too.
_OUT = flags.DEFINE_string(
    "out", None, "The folder to write.", allow_override=True
)
_SPLIT = flags.DEFINE_string("split", "train", "Of the data in config.data.")
_MODEL = flags.DEFINE_string(
    "model", None, "A trained run whose image tower to use, not config.init's."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, embeddings.DTYPES, "Of the numbers kept; config.model.dtype."
)
_CROPS = flags.DEFINE_integer(
    "crops",
    0,
    "Embeddings of each image, as config.data.pp draws them; 0: one, as"
    " config.preprocess.image makes it, which evaluation needs.",
)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Images at a time, a host.")
_SHARD = flags.DEFINE_integer("shard_size", 16_384, "Examples a file.")
_CLUSTER = join.define_flags()


def main(argv: Sequence[str]) -> int:
  """Embeds."""
  del argv
  if _CONFIG.value is None or not _OUT.value:
    raise UserError("Both --config=configs/NAME.py and --out=DIR are needed.")
  options = encode.Options(
      split=_SPLIT.value,
      model=_MODEL.value,
      dtype=_DTYPE.value,
      crops=_CROPS.value,
      batch_size=_BATCH.value,
      shard_size=_SHARD.value,
  )
  config, out = cli.config_of(_CONFIG), _OUT.value
  return join.run(_CLUSTER(), lambda: _embed(config, out, options))


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
  cli.run(main)
