"""The training data of a config: the source, and how to read it."""

from typing import Any

import ml_collections

from siglip_jax.data import kinds
from siglip_jax.data.lanes import OrderSpec
from siglip_jax.data.sources import Source

# Keys of config.data that do not name the data; the others go to `kinds.make`.
DATA = {"pp": str, "max_replaced_share": float}
# Numbers that say how the data are read, for `pipeline.train_iterator`.
LOADER = {
    "num_threads": int,
    "num_workers": int,
    "cache_mb": int,
    "prefetch": int,
}
# For both: a block is a part of the data, and of their order.
BOTH = {"order": OrderSpec}


def train_source(config: ml_collections.ConfigDict) -> Source:
  """Returns the source that config.data names."""
  return kinds.make(**source_arguments(config))


def source_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the part of config.data that names the data, for `kinds.make`."""
  data = config.data.to_dict()
  return {k: v for k, v in data.items() if k not in DATA | LOADER}


def loader_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the part of config.data that says how the data are read."""
  data = config.data.to_dict()
  return {k: v for k, v in data.items() if k in LOADER | BOTH}
