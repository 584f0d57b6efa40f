"""The image tower that made embeddings, as a file named by its digest.

`siglip_jax.embed` writes it beside the embeddings, a run trained on those keeps
it in its workdir, and `load` joins it to the text tower that was trained.
"""

from collections.abc import Mapping
import hashlib
from pathlib import Path

import jax
import numpy as np

from siglip_jax import tree
from siglip_jax.data import embeddings
from siglip_jax.errors import UserError
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts


def digest(params: Mapping) -> str:
  """SHA-256 of a tower's names, shapes and float32 values.

  Args:
    params: {"img": ...} of NumPy arrays; scanned blocks count as unrolled ones.
  """
  total = hashlib.sha256()
  for name, x in tree.flatten(layouts.unrolled(params)).items():
    x = np.ascontiguousarray(x, np.float32)
    total.update(f"{name} {x.shape}\n".encode())
    total.update(x.data)
  return total.hexdigest()


def write(path: Path, params: Mapping) -> None:
  """Writes {"img": ...}, NumPy arrays, in big_vision's form."""
  as_float = jax.tree.map(lambda x: np.asarray(x, np.float32), dict(params))
  big_vision.write(path, layouts.unrolled(as_float))


def kept(workdir: Path, wanted: str, scan: bool) -> dict:
  """Returns the tower of a workdir, {"img": ...} of NumPy arrays.

  Args:
    workdir: of a run on embeddings.
    wanted: the tower's digest.
    scan: whether the model scans over its blocks.

  Raises:
    UserError: no such file, damaged, or another tower's.
  """
  path = workdir / embeddings.TOWER
  params = big_vision.read(path)
  found = digest(params)
  if found != wanted:
    raise UserError(
        f"{path} is not the image tower whose embeddings the texts were trained"
        f" on: sha256 {wanted[:12]}..., got {found[:12]}.... Copy it again from"
        " the folder of embeddings."
    )
  return layouts.scanned(params) if scan else params
