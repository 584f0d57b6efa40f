"""Two layouts of an encoder's blocks: one by one, or stacked for a scan."""

from collections.abc import Callable
from collections.abc import Mapping
import re

import jax
import numpy as np

from siglip_jax.errors import UserError

_STACK = "encoderblock"
_BLOCK = re.compile(rf"{_STACK}_(\d+)")


def unrolled(params: Mapping) -> dict:
  """Splits `encoderblock` into `encoderblock_0`, `encoderblock_1`, ...

  Args:
    params: a whole model, a tower or an encoder, in either layout; leaves are
      arrays or ShapeDtypeStructs.

  Returns:
    A new nested dict; its NumPy arrays are views of those in `params`.
  """
  return _rewrite(params, _unroll)


def scanned(params: Mapping) -> dict:
  """Stacks `encoderblock_0`, `encoderblock_1`, ... into `encoderblock`.

  Args:
    params: a whole model, a tower or an encoder, in either layout.

  Returns:
    A new nested dict; stacked leaves are NumPy arrays.

  Raises:
    UserError: a block is missing, or blocks differ in names or shapes.
  """
  return _rewrite(params, _stack)


def _rewrite(node: Mapping, change: Callable[[dict], dict]) -> dict:
  return change(
      {
          name: _rewrite(value, change) if isinstance(value, Mapping) else value
          for name, value in node.items()
      }
  )


def _unroll(node: dict) -> dict:
  if not isinstance(node.get(_STACK), dict):
    return node
  stack = node.pop(_STACK)
  depth = len(jax.tree.leaves(stack)[0])
  for i in range(depth):
    node[f"{_STACK}_{i}"] = jax.tree.map(lambda x, i=i: _row(x, i), stack)
  return node


def _row(x, i: int):
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
  return x[i]


def _stack(node: dict) -> dict:
  numbers = sorted(int(m[1]) for n in node if (m := _BLOCK.fullmatch(n)))
  if not numbers:
    return node
  if numbers != list(range(len(numbers))):
    raise UserError(
        f"Blocks must be numbered from {_STACK}_0 without gaps; got {numbers}."
        " The weights are incomplete."
    )
  blocks = [node.pop(f"{_STACK}_{i}") for i in numbers]
  try:
    stack = jax.tree.map(lambda *x: np.stack(x), *blocks)
  except ValueError as e:
    raise UserError(
        f"All blocks of an encoder must be alike to be stacked; they are not"
        f" ({e})."
    ) from None
  return node | {_STACK: stack}
