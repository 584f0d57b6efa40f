"""A folder of embeddings as the image tower of a config would make it."""

from pathlib import Path

import ml_collections
import numpy as np

from siglip_jax.data import embeddings
from siglip_jax.embed import tower
from siglip_jax.models.two_towers import TwoTowers


def write(
    folder: Path, config: ml_collections.ConfigDict, **changes
) -> embeddings.Embeddings:
  """Writes five random embeddings; `changes` are of the manifest."""
  dim = TwoTowers(**config.model.to_dict()).image_dim
  manifest = {
      "format": embeddings.FORMAT,
      "tower_digest": "0" * 64,
      **tower.identity(config),
      "made_with": config.preprocess.image,
      "crops": 0,
      "seed": 0,
      "data": {},
      "split": "train",
      "examples": 5,
      "shard_size": 5,
      "dtype": "float32",
      "dim": dim,
      "tower_from": "nowhere",
      "counts": [5],
      "skipped": 0,
      "skipped_keys": [],
  }
  folder.mkdir()
  z = np.random.default_rng(0).normal(size=(5, 1, dim)).astype(np.float32)
  rest = [embeddings.pack_rest({"text": f"text number {i}"}) for i in range(5)]
  (path,) = embeddings.shard_paths(folder, 1)
  embeddings.write_shard(path, map(embeddings.pack, range(5), z, rest))
  embeddings.write_json(folder / embeddings.MANIFEST, manifest | changes)
  return embeddings.Embeddings(folder)
