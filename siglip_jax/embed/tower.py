"""A trained image tower for a config, apart from any text tower."""

from pathlib import Path

import jax
import ml_collections

from siglip_jax import init
from siglip_jax import tree
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import strings
from siglip_jax.errors import UserError
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
      images prepared otherwise.
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
  fitted, notes = init.read(section, shapes, spec)
  found, path = fitted["img"], section["img"]["path"]
  if found.initial:
    raise UserError(
        f"{path} lacks {len(found.initial)} arrays of the image tower, such as"
        f" {found.initial[0]!r}, whose values would be random. Change"
        " config.model.image, or give other weights."
    )
  if notes:
    raise UserError(
        f"The tower would see other images than it is used to. {notes[0]}."
        " Change config.preprocess.image."
    )
  return {"img": tree.unflatten(found.arrays)}, path


def _check_workdir(config, workdir: str) -> None:
  """What shapes do not show: heads, pooling and so on."""
  there = strings.tower(workdir_lib.read_config(Path(workdir).expanduser()))
  for key, wanted in strings.tower(config).items():
    if not strings.same_tower(key, there[key], wanted):
      raise UserError(
          f"--model={workdir} has {key} = {there[key]!r}, and the config"
          f" {wanted!r}. Embeddings need one and the same tower: change the"
          " config, or give another run."
      )
