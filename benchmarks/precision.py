"""The cost of bfloat16 logits: errors of the loss and its gradients.

  python benchmarks/precision.py

A TPU's default matmul rounds float32 embeddings to bfloat16 (`loss.dtype` does
so explicitly). This benchmark rounds in the same way on the CPU and compares
with float32 arithmetic, for pairs typical of the start and of late training.
"""

from absl import app
import jax
import jax.numpy as jnp
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import losses


def pairs(rows: int, width: int, cosine: float):
  """Returns embeddings; positives have about this cosine, negatives about 0."""
  keys = jax.random.split(jax.random.key(0), 3)
  shared, a, b = (jax.random.normal(k, (rows, width)) for k in keys)
  mix = lambda own: cosine**0.5 * shared + (1 - cosine) ** 0.5 * own
  normed = lambda z: z / jnp.linalg.norm(z, axis=1, keepdims=True)
  return normed(mix(a)), normed(mix(b))


def main(argv):
  """Prints the table."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  grad = jax.jit(jax.value_and_grad(losses.sigmoid_loss, (0, 1, 2, 3)))
  table = rich_table.Table(
      title="Relative errors of bfloat16 logits, 4096 x 768, one batch",
      title_justify="left",
  )
  for column in ("when", "loss", "d zimg", "d ztxt", "d t'", "d b"):
    table.add_column(column, justify="right")
  for when, cosine, t, b in (
      ("start: t 10, b -10", 0.0, 10.0, -10.0),
      ("late: t 100, b -13", 0.25, 100.0, -13.0),
  ):
    zimg, ztxt = pairs(4096, 768, cosine)
    scalars = jnp.log(t), jnp.float32(b)
    exact, exact_grads = grad(zimg, ztxt, *scalars)
    rounded = [z.astype(jnp.bfloat16) for z in (zimg, ztxt)]
    value, grads = grad(*rounded, *scalars)
    errors = [_error(value, exact)]
    errors += [_error(*g) for g in zip(grads, exact_grads, strict=True)]
    table.add_row(when, *(f"{e:.1e}" for e in errors))
  rich_console.Console().print(table)


def _error(got, want) -> float:
  got, want = np.float64(got), np.float64(want)
  return float(np.linalg.norm(got - want) / np.linalg.norm(want))


if __name__ == "__main__":
  app.run(main)
