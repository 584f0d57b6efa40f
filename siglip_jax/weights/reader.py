"""Weights of any origin by big_vision's names, and what is known of them."""

import dataclasses
from pathlib import Path

from siglip_jax.data import embeddings
from siglip_jax.errors import UserError
from siglip_jax.weights import big_vision
from siglip_jax.weights import old_vits
from siglip_jax.weights import places
from siglip_jax.weights import tower_file
from siglip_jax.weights import transformers
from siglip_jax.weights import workdirs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """Parameters of NumPy arrays, and how their inputs are to be prepared.

  Attributes:
    params: nested, with parts of {"img", "txt", "t", "b"}.
    image: preprocessing of images, where it is known.
    text: preprocessing of texts, where it is known.
    tokenizer_digest: of the tokenizer's file, where it is known.
  """

  params: dict
  image: str | None = None
  text: str | None = None
  tokenizer_digest: str | None = None


def read(path: str) -> Weights:
  """Reads a workdir, an .npz of big_vision or AugReg, a transformers folder.

  Args:
    path: local, or on a file system that fsspec knows (gs://, s3://, hf://).

  Raises:
    UserError: there is nothing, nothing known, or it is damaged.
  """
  with places.local(path) as here:
    if not here.exists():
      raise UserError(
          f"There is nothing at {path}: expected the workdir of a run, an .npz"
          " of big_vision or AugReg, or a transformers folder."
      )
    if here.is_file():
      return Weights(params=_whole(big_vision.read(here)))
    if (here / "checkpoints").is_dir():
      return _workdir(here)
    if transformers.is_folder(here):
      found = transformers.read(here)
      return Weights(params=found.params, image=found.image, text=found.text)
  raise UserError(
      f"{path} holds no weights that are known: expected checkpoints (of a"
      " run) or config.json with model.safetensors (of transformers)."
  )


def _workdir(folder: Path) -> Weights:
  params, spec = workdirs.read_params(folder)
  if "img" not in params and (folder / embeddings.TOWER).is_file():
    params |= tower_file.kept(folder, spec["tower_digest"], scan=False)
  return Weights(
      params=params,
      image=spec["image"],
      text=spec["text"],
      tokenizer_digest=spec["tokenizer_digest"],
  )


def _whole(params: dict) -> dict:
  """A lone ViT becomes the image tower; towers are given today's names."""
  if old_vits.is_vit(params):
    return {"img": old_vits.modern(params)}
  if old_vits.is_vit(params.get("img", {})):
    return params | {"img": old_vits.modern(params["img"])}
  return params
