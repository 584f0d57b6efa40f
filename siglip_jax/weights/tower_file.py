"""The image tower that made embeddings, as a file verified by its digest.

`siglip_jax.embed` writes the file beside the embeddings. A run that trains on
the embeddings keeps it in its workdir, and `load` joins the image tower to the
text tower that the run trained.
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
  """Returns the SHA-256 of a tower's names, shapes and float32 values.

  Args:
    params: {"img": ...} of NumPy arrays; scanned and unrolled blocks give the
      same digest.
  """
  hasher = hashlib.sha256()
  for name, x in tree.flatten(layouts.unrolled(params)).items():
    x = np.ascontiguousarray(x, np.float32)
    hasher.update(f"{name} {x.shape}\n".encode())
    hasher.update(x.data)
  return hasher.hexdigest()


def write(path: Path, params: Mapping) -> None:
  """Writes {"img": ...}, NumPy arrays, as big_vision's .npz."""
  as_float = jax.tree.map(lambda x: np.asarray(x, np.float32), dict(params))
  big_vision.write(path, layouts.unrolled(as_float))


def kept(workdir: Path, wanted: str, scan: bool) -> dict:
  """Returns the tower kept in a workdir, {"img": ...} of NumPy arrays.

  Args:
    workdir: workdir of a run on embeddings.
    wanted: digest that the tower must have.
    scan: whether the model scans over its blocks.

  Raises:
    UserError: the file is missing, damaged, or another tower's.
  """
  path = workdir / embeddings.TOWER
  params = big_vision.read(path)
  actual = digest(params)
  if actual != wanted:
    raise UserError(
        f"{path} is not the image tower whose embeddings the texts were trained"
        f" on: sha256 {wanted[:12]}..., got {actual[:12]}.... Copy it again"
        " from the folder of embeddings."
    )
  return layouts.scanned(params) if scan else params
