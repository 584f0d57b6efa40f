"""A locked image tower apart from its model: named by a digest, kept as a file.

`embed.py` writes it beside the embeddings, a run trained on those keeps it in
its workdir, and `load` joins it to the text tower that was trained.
"""

from collections.abc import Mapping
import hashlib
import os
from pathlib import Path
import shutil

import jax
import ml_collections
import numpy as np

from siglip_jax import config as config_lib
from siglip_jax import preprocessing
from siglip_jax import tree
from siglip_jax.convert import big_vision
from siglip_jax.convert import layouts
from siglip_jax.data import embeddings
from siglip_jax.errors import UserError
from siglip_jax.init import initial
from siglip_jax.models.two_towers import TwoTowers


def load(
    config: ml_collections.ConfigDict,
    model: TwoTowers,
    workdir: str | None = None,
) -> tuple[dict, str]:
  """A trained image tower, {"img": ...} of NumPy arrays, and its origin.

  Args:
    config: whose init.img names it unless `workdir` does.
    model: of the config.
    workdir: the run that trained it.

  Raises:
    UserError: it is no trained one, not of the model's form, or is used to
      pictures prepared otherwise.
  """
  section = config.init.to_dict() if "init" in config else {}
  if workdir is not None:
    _check_workdir(config, workdir)
    section = {"img": {"path": workdir}}
  if "img" not in section:
    raise UserError(
        "Embeddings need a trained image tower: give --model=WORKDIR, the run"
        " that trained it, or config.init.img, the file."
    )
  side = config.image_size
  shapes = jax.eval_shape(
      lambda key: model.init_image(key, (side, side, 3)), jax.random.key(0)
  )
  spec = {"image": config.preprocess.image}
  section = {"img": section["img"]}
  fitted, notes = initial.read(section, shapes, spec)
  found, path = fitted["img"], section["img"]["path"]
  if found.initial:
    raise UserError(
        f"{path} lacks {len(found.initial)} arrays of the image tower, such as"
        f" {found.initial[0]!r}, whose values would be random. Change"
        " config.model.image, or give other weights."
    )
  if notes:
    raise UserError(
        f"The tower would see other pictures than it is used to. {notes[0]}."
        " Change config.preprocess.image."
    )
  return {"img": tree.unflatten(found.arrays)}, path


def _check_workdir(config, workdir: str) -> None:
  """What shapes do not show: heads, pooling and so on."""
  there = preprocessing.tower(config_lib.read(Path(workdir).expanduser()))
  for key, wanted in preprocessing.tower(config).items():
    if there[key] != wanted:
      raise UserError(
          f"--model={workdir} has {key} = {there[key]!r}, and the config"
          f" {wanted!r}. Embeddings need one and the same tower: change the"
          " config, or give another run."
      )


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
