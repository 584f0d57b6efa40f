"""A config that trains in a moment, and batches for it."""

import ml_collections
import numpy as np


def config(**changes) -> ml_collections.ConfigDict:
  """Two towers of one block each; `changes` replace whole sections."""
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.batch_size, c.microbatch = 0, 10, 32, 0
  c.image_size, c.text_len = 16, 8
  c.model = dict(
      image=dict(width=64, depth=1, mlp_dim=128, num_heads=2, patch=8),
      text=dict(width=64, depth=1, mlp_dim=128, num_heads=2, vocab_size=64),
      out_dim=(None, 64),
      bias_init=-3.0,
  )
  c.loss = dict(name="ring_sigmoid", block=3)
  # SGD: parameters move in proportion to gradients, so they compare them.
  c.optim = dict(
      name="sgd", lr=0.1, wd=1e-3, schedule=[(".*", dict(decay="none"))]
  )
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "fsdp")]
  for key, value in changes.items():
    c[key] = value
  return c


def batches(steps: int = 3, n: int = 32) -> list[dict[str, np.ndarray]]:
  """Random batches of n examples."""
  rng = np.random.default_rng(0)
  return [
      {
          "image": rng.integers(0, 256, (n, 16, 16, 3), np.uint8),
          "text": rng.integers(0, 64, (n, 8), np.int32),
          "replaced": np.full(n, -1, np.int32),
      }
      for _ in range(steps)
  ]
