"""Compares XLA's and PyTorch's matrix products of a transformer layer on CPU.

  pip install -e '.[parity]' && python benchmarks/matmul.py

These products bound inference.py and train_step.py. Sizes are those of B/16 on
8 images of 256 tokens, in float32. Each is timed in the forward pass and for
the gradients of the input and of the weights, in GFLOP/s.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import os
import statistics
import time

from absl import flags
import jax
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import cli

_ROUNDS = flags.DEFINE_integer(
    "rounds", 15, "Timed calls of each, after one unmeasured."
)

_TOKENS = 2048
_LAYERS = {"attention": (768, 768), "MLP, in": (768, 3072), "out": (3072, 768)}
# Pass -> first matrix, its summed axis, second matrix, its summed axis.
_PASSES = {
    "forward": ("x", 1, "w", 0),
    "input's gradient": ("y", 1, "w", 1),
    "weights' gradient": ("x", 0, "y", 0),
}


def xla(a: np.ndarray, i: int, b: np.ndarray, j: int) -> Callable[[], object]:
  """Returns a call that multiplies a and b in XLA, summing axes i and j."""
  product = jax.jit(
      lambda a, b: jax.lax.dot_general(a, b, (((i,), (j,)), ((), ())))
  )
  a, b = jax.device_put((a, b))
  return lambda: jax.block_until_ready(product(a, b))


def torch(a: np.ndarray, i: int, b: np.ndarray, j: int) -> Callable[[], object]:
  """Returns a call that does the same in PyTorch."""
  import torch  # pylint: disable=redefined-outer-name

  x, y = torch.from_numpy(a), torch.from_numpy(b)
  x, y = x if i else x.T, y.T if j else y
  return functools.partial(torch.matmul, x, y)


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  del argv
  rng = np.random.default_rng(0)
  table = rich_table.Table(
      title=f"GFLOP/s, float32, {len(os.sched_getaffinity(0))} cores: medians"
      f" of {_ROUNDS.value} calls",
      title_justify="left",
  )
  for column in ("layer", "pass", "XLA", "PyTorch", "ratio"):
    table.add_column(column, justify="right")
  for layer, (k, n) in _LAYERS.items():
    shapes = {"x": (_TOKENS, k), "w": (k, n), "y": (_TOKENS, n)}
    arrays = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }
    for what, (a, i, b, j) in _PASSES.items():
      calls = [make(arrays[a], i, arrays[b], j) for make in (xla, torch)]
      ours, theirs = (2e-9 * _TOKENS * k * n / seconds(c) for c in calls)
      row = f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"
      table.add_row(layer, what, *row)
  rich_console.Console(width=80).print(table)


def seconds(call: Callable[[], object]) -> float:
  """Returns the median time of consecutive calls.

  The calls of XLA and PyTorch do not alternate, because PyTorch's threads spin
  a while after each call.
  """
  call()
  time.sleep(0.5)
  found = []
  for _ in range(_ROUNDS.value):
    begin = time.perf_counter()
    call()
    found.append(time.perf_counter() - begin)
  return statistics.median(found)


if __name__ == "__main__":
  cli.main(main)
