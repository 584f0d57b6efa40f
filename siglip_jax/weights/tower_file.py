"""The image tower that made embeddings, as a file named by its digest.

`embed.py` writes it beside the embeddings, a run trained on those keeps it in
its workdir, and `load` joins it to the text tower that was trained.
"""

from collections.abc import Mapping
import hashlib
import os
from pathlib import Path
import shutil

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


def keep(source: embeddings.Embeddings, workdir: Path) -> None:
  """Puts the tower that made embeddings into a workdir; a link if possible.

  Raises:
    UserError: it is no longer beside the embeddings.
  """
  made_by = source.folder / embeddings.TOWER
  if not made_by.is_file() and (workdir / embeddings.TOWER).is_file():
    return  # kept when the run began; `kept` sees to it that it is this one
  if not made_by.is_file():
    raise UserError(
        f"{made_by} is missing: the tower that made the embeddings, which the"
        " trained model needs to see with. Copy the folder again."
    )
  part = workdir / "tower.part"
  part.unlink(missing_ok=True)
  try:
    os.link(made_by, part)
  except OSError:  # another file system, or one without links
    shutil.copyfile(made_by, part)
  part.replace(workdir / embeddings.TOWER)


def kept(workdir: Path, wanted: str, scan: bool) -> dict:
  """What `keep` kept: {"img": ...} of NumPy arrays, laid out for a model.

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
