"""The training data of a config: the source, and how to read it."""

import ml_collections

from siglip_jax.data import sources

# Keys of config.data that do not name the data; the others go to
# `sources.make`.
DATA = {"pp": str, "max_replaced_share": float}
LOADER = {"num_threads": int, "num_workers": int, "cache_mb": int}


def train_source(config: ml_collections.ConfigDict) -> sources.Source:
  """Returns the source that config.data names."""
  return sources.make(**{k: config.data[k] for k in source_keys(config)})


def source_keys(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the keys of config.data that name the data, for `sources.make`."""
  return [k for k in config.data if k not in DATA | LOADER]


def loader_options(config: ml_collections.ConfigDict) -> dict:
  """Returns the part of config.data that the pipeline takes."""
  return {k: config.data[k] for k in LOADER if k in config.data}
