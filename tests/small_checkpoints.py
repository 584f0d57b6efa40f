"""Two checkpoints of a small state, and a way to damage them."""

import jax
import jax.numpy as jnp
import numpy as np

from siglip_jax import checkpoint
from siglip_jax.step import TrainState

SPEC = {"image": "decode", "tokenizer_digest": "abc"}


def state(step):
  rng = np.random.default_rng(step)
  params = {"img": {"kernel": rng.normal(size=(64, 16)).astype(np.float32)}}
  return TrainState(
      step=jnp.int32(step),
      replaced=jnp.int32(0),
      params=jax.tree.map(jnp.asarray, params),
      opt_state=(jnp.full((3,), step, jnp.float32),),
  )


def save(workdir):
  """Saves the states of steps 1 and 2, after 8 examples each."""
  checkpoints = checkpoint.Checkpoints(workdir)
  for step in (1, 2):
    checkpoints.save(step, state(step), SPEC, examples=8 * step)
  checkpoints.close()


def data_files(workdir):
  """Those that hold the values, largest last."""
  files = (workdir / "checkpoints" / "2" / "params").rglob("d/*")
  return sorted(files, key=lambda p: p.stat().st_size)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)
