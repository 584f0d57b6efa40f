"""Export of towers as StableHLO, to run without this package.

  import jax, numpy as np
  tower = jax.export.deserialize(open("image.stablehlo", "rb").read())
  weights = dict(np.load("image.stablehlo.npz"))
  embeddings = tower.call(weights, images)  # any number of them

The weights are in a file of their own, beside the program. The program's format
is limited to 2 GiB, which the larger towers exceed, and without weights the
program stays small enough to read.
"""

from collections.abc import Callable
from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export
import numpy as np

from siglip_jax import tree
from siglip_jax.errors import UserError

# One program runs on all of them, because it has no device-specific kernels.
PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    path: str | Path,
    function: Callable[[dict, Any], Any],
    params: Mapping,
    example: jax.ShapeDtypeStruct,
    about: Mapping[str, Any],
) -> None:
  """Writes a program to PATH, weights to PATH.npz, a description to PATH.json.

  The program maps (weights by name, batch of examples) to embeddings, for any
  batch size. The description includes the shape and type of the input.

  Args:
    path: path of the program's file.
    function: (nested parameters, batch) -> embeddings.
    params: nested dict of parameters.
    example: shape and dtype of one example.
    about: further entries of the description.

  Raises:
    UserError: the path cannot be written to.
  """
  path = Path(path)
  weights = jax.device_get(tree.flatten(params))
  described = dict(about) | {
      "input": {
          "shape": ["batch", *example.shape],
          "dtype": str(example.dtype),
      },
      "platforms": PLATFORMS,
  }
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_program(function, weights, example))
    np.savez(path.with_name(path.name + ".npz"), allow_pickle=False, **weights)
    path.with_name(path.name + ".json").write_text(
        json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
  except OSError as e:
    raise UserError(
        f"The tower cannot be written to {path}: {e.strerror}."
    ) from None


def _program(
    function: Callable[[dict, Any], Any],
    weights: Mapping[str, np.ndarray],
    example: jax.ShapeDtypeStruct,
) -> bytes:
  """Returns the exported program, in JAX's own format around StableHLO."""
  traced = jax.jit(lambda flat, x: function(tree.unflatten(flat), x))
  (batch,) = jax_export.symbolic_shape("batch")
  exported = jax_export.export(traced, platforms=PLATFORMS)(
      {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in weights.items()},
      jax.ShapeDtypeStruct((batch, *example.shape), example.dtype),
  )
  return bytes(exported.serialize())
