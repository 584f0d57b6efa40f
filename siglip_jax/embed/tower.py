"""Loading of image towers, and checks of which tower made embeddings."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from siglip_jax import init
from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import meaning
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers


def load(
    config: ml_collections.ConfigDict,
    model: TwoTowers,
    workdir: str | None = None,
    step: int | None = None,
) -> tuple[dict, str]:
  """Returns a trained image tower, and the path and step it was read from.

  The tower is {"img": ...} of NumPy arrays.

  Args:
    config: config whose init.img names the tower, unless `workdir` is given.
    model: the config's model.
    workdir: workdir of the run that trained the tower.
    step: step of a checkpoint in `workdir`; by default the newest that can be
      read.

  Raises:
    UserError: when the tower is untrained, has other shapes, or was trained
      with other image preprocessing.
  """
  section = config.init.to_dict() if "init" in config else {}
  if workdir is not None:
    section = {"img": {"path": workdir, "step": step}}
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
  weights = init.weights(section)
  path = weights["img"].path
  if workdir is not None:
    _check_run(config, weights["img"])
  fitted, notes = init.read(section, shapes, spec, weights)
  part = fitted["img"]
  if part.initial:
    raise UserError(
        f"{path} lacks {len(part.initial)} arrays of the image tower, such as"
        f" {part.initial[0]!r}, whose values would be random. Change"
        " config.model.image, or give other weights."
    )
  if notes:
    raise UserError(
        f"The tower was trained with different image preprocessing. {notes[0]}."
        " Change config.preprocess.image."
    )
  return {"img": tree.unflatten(part.arrays)}, weights["img"].origin


def identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns what embeddings depend on besides parameters, by manifest key."""
  return _identity(
      config.model.to_dict(), config.image_size, config.preprocess.image
  )


def _identity(
    model: Mapping[str, Any], image_size: int | None, image: str | None
) -> dict[str, Any]:
  return {
      "tower_sizes": TwoTowers(**model).image_sizes,
      "image_size": image_size,
      "image": image,
  }


def same_tower(key: str, one: Any, other: Any) -> bool:
  """Whether two values of a key of `identity` mean the same."""
  if key == "image":
    one, other = map(meaning, (one, other))
  return one == other


def check_embeddings(
    config: ml_collections.ConfigDict, found: Embeddings
) -> None:
  """Checks that the config's image tower would make these embeddings.

  Args:
    config: config with the image tower.
    found: embeddings to check.

  Raises:
    UserError: when a tower of other sizes made the embeddings, or the image
      size or image preprocessing was different.
  """
  for key, value in identity(config).items():
    stored = found.manifest[key]
    if not same_tower(key, stored, value):
      raise UserError(
          f"{found.folder} holds embeddings made with {key} = {stored!r}, and"
          f" this config has {value!r}. Change the config, or make the"
          " embeddings again in a new folder."
      )


def check_evaluation(
    config: ml_collections.ConfigDict, found: Embeddings, digest: str
) -> None:
  """Checks embeddings for evaluation, which needs all images, unaugmented.

  Args:
    config: the run's config.
    found: embeddings to evaluate on.
    digest: sha256 of the tower that made the embeddings trained on.

  Raises:
    UserError: when another tower made the embeddings, they are of augmented
      images, or some are missing.
  """
  check_embeddings(config, found)
  if found.manifest["tower_digest"] != digest:
    raise UserError(
        f"{found.folder} was made by another image tower than the embeddings"
        f" trained on: sha256 {found.manifest['tower_digest'][:12]}... and"
        f" {digest[:12]}.... Make it again with that tower."
    )
  if found.manifest["crops"] or found.manifest["skipped"]:
    raise UserError(
        "Evaluation needs every image once, as config.preprocess.image makes"
        f" it; {found.folder} was made with --crops={found.manifest['crops']}"
        f" and {found.manifest['skipped']} unreadable images skipped."
    )


def _check_run(config, weights: weights_lib.Weights) -> None:
  """Checks what shapes do not show: heads, pooling and so on."""
  if weights.kind != "workdir":
    raise UserError(
        f"--model is the workdir of a run; got {weights.path} ({weights.kind})."
        " Give it to config.init.img.path instead."
    )
  if weights.model is None:
    raise UserError(weights.problem or f"{weights.path} has no model.")
  trained = _identity(weights.model, weights.image_size, weights.image)
  for key, value in identity(config).items():
    if not same_tower(key, trained[key], value):
      raise UserError(
          f"--model={weights.path} has {key} = {trained[key]!r}, and the config"
          f" {value!r}. Embeddings need one and the same tower: change the"
          " config, or give another run."
      )
