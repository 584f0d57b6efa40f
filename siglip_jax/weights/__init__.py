"""Reading and writing of model weights; `read` reads every supported format.

`workdirs.py`, `big_vision.py` and `transformers.py` each handle one format.
`places.py` copies remote weights to a local folder while they are read, and
`fits.py` checks that a tokenizer fits the weights.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import functools
import os
from pathlib import Path
from typing import Any

from siglip_jax import files
from siglip_jax import workdir as workdir_lib
from siglip_jax.data import embeddings
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import big_vision
from siglip_jax.weights import old_vits
from siglip_jax.weights import places
from siglip_jax.weights import tower_file
from siglip_jax.weights import transformers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """Parameters, and what is known about the model and its inputs.

  An .npz holds only parameters, so whatever describes the model and its inputs
  is None.

  Attributes:
    params: nested dict of NumPy arrays with big_vision's names, under some of
      "img", "txt", "t" and "b"; blocks are laid out as saved.
    path: path that the weights were read from.
    kind: "workdir", "npz" or "transformers folder".
    model: keyword arguments of TwoTowers.
    image_size: side of the images, pixels.
    text_len: length of a text, tokens.
    image: preprocessing string of images.
    text: preprocessing string of texts.
    tokenizer: path of the tokenizer's file; also None if the folder has none.
    tokenizer_digest: sha256 of the tokenizer that the model was trained with.
    checked: released model that the parameters were checked to be.
    naflex: whether this is a Siglip2Model; no model in `zoo` is one.
    spec: what the checkpoint of a workdir says of its model and inputs.
    step: step of the checkpoint of a workdir.
    problem: why `model` of a workdir is unknown, for whoever needs it.
  """

  params: dict
  path: str
  kind: str
  model: Mapping[str, Any] | None = None
  image_size: int | None = None
  text_len: int | None = None
  image: str | None = None
  text: str | None = None
  tokenizer: files.AnyPath | None = None
  tokenizer_digest: str | None = None
  checked: zoo.Variant | None = None
  naflex: bool = False
  spec: Mapping[str, Any] | None = None
  step: int | None = None
  problem: str | None = None

  @functools.cached_property
  def variant(self) -> zoo.Variant | None:
    """The released model with these shapes, or None.

    The first access may trace a model, which takes a moment.
    """
    if self.checked is not None or self.naflex:
      return self.checked
    return zoo.identify(self.params)

  @property
  def origin(self) -> str:
    """The path and, of a workdir, the step."""
    at = "" if self.step is None else f" at step {self.step}"
    return f"{self.path}{at}"

  def as_released(self, convention: str) -> "Weights":
    """Returns the weights, completed if they are a released model's .npz.

    Args:
      convention: "big_vision" or "transformers": whose preprocessing to use.
    """
    if self.kind != "npz" or self.variant is None:
      return self
    recipe = getattr(self.variant, convention)
    return dataclasses.replace(
        self,
        model=self.variant.model,
        image_size=self.variant.image_size,
        text_len=self.variant.text_len,
        image=recipe.image,
        text=recipe.text,
        checked=self.variant,
    )


def read(
    path: files.AnyPath,
    *,
    weights: files.AnyPath | None = None,
    variant: zoo.Variant | None = None,
    step: int | None = None,
) -> Weights:
  """Reads a workdir, an .npz of big_vision or AugReg, or a transformers folder.

  Args:
    path: local or remote (gs://, s3://, hf://) path of the weights; or, with
      `weights`, the name of a released model.
    weights: file or folder of the released model named `path`.
    variant: released model that the weights must be.
    step: step of the checkpoint of a workdir; by default the newest that can be
      read.

  Raises:
    UserError: nothing is at the path, its format is unknown, it is damaged, it
      is not the released model that it must be, or it has no such step.
  """
  if weights is not None:
    if os.fspath(path) not in zoo.names():
      raise UserError(
          "weights= goes with the name of a released model, which they are"
          f" checked to be; got {os.fspath(path)!r}, {_hint(path)}"
      )
    variant, path = zoo.get(os.fspath(path)), weights
  with places.local(path, step) as local_path:
    with files.reaching(path):
      exists = local_path.exists()
    if not exists:
      raise _nothing_at(path)
    try:
      fields = _fields(local_path, path, variant, step)
    except UserError as e:  # names the path that was asked for, not its copy
      message = str(e).replace(os.fspath(local_path), os.fspath(path))
      raise UserError(message) from None
  if variant is not None and fields["kind"] != "transformers folder":
    variant.check(fields["params"])
  if tokenizer := fields.get("tokenizer"):
    fields["tokenizer"] = _beside(path, tokenizer)
  return Weights(path=os.fspath(path), checked=variant, **fields)


def _fields(
    local_path: Path,
    path: files.AnyPath,
    variant: zoo.Variant | None,
    step: int | None,
) -> dict[str, Any]:
  """Reads whatever there is, into keyword arguments of `Weights`."""
  is_file, is_folder = local_path.is_file(), transformers.is_folder(local_path)
  if step is not None and (is_file or is_folder):
    kind = "a file" if is_file else "a transformers folder"
    raise UserError(
        f"{path} is {kind}, and only the workdir of a run has steps; got"
        f" step={step}. Leave it out."
    )
  if is_file:
    return _npz(local_path)
  if is_folder:
    return _folder(local_path, variant)
  if workdir_lib.is_workdir(local_path):
    return _workdir(local_path, step)
  raise UserError(
      f"{path} holds no weights that are known: expected checkpoints (of a"
      " run) or config.json with model.safetensors (of transformers)."
  )


def _nothing_at(path: files.AnyPath) -> UserError:
  name = os.fspath(path)
  if name in zoo.names():
    variant = zoo.get(name)
    return UserError(
        f"{name} needs weights=PATH: {variant.big_vision.weights}, or a copy of"
        f" {variant.transformers.weights}."
    )
  return UserError(
      f"There is no {name}: expected a workdir, an .npz of big_vision or"
      " AugReg, a transformers folder or the name of a released model,"
      f" {_hint(path)}"
  )


def _hint(path: files.AnyPath) -> str:
  names = zoo.names()
  close = difflib.get_close_matches(os.fspath(path), names, n=1, cutoff=0.5)
  return f"as {(close or names)[0]!r}."


def _beside(path: files.AnyPath, name: str) -> files.AnyPath:
  """Returns the path of a file in the folder `path`, local or remote."""
  if files.is_remote(path):
    return f"{os.fspath(path).rstrip('/')}/{name}"
  return Path(path).expanduser() / name


def _npz(path: Path) -> dict[str, Any]:
  """Reads an .npz; a single ViT becomes the image tower, with current names."""
  params = big_vision.read(path)
  if old_vits.is_vit(params):
    params = {"img": old_vits.modern(params)}
  elif old_vits.is_vit(params.get("img", {})):
    params |= {"img": old_vits.modern(params["img"])}
  return {"kind": "npz", "params": params}


def _folder(path: Path, variant: zoo.Variant | None) -> dict[str, Any]:
  folder = transformers.read(path, variant=variant)
  return {
      "kind": "transformers folder",
      "params": folder.params,
      "model": folder.model,
      "image_size": folder.image_size,
      "text_len": folder.text_len,
      "image": folder.image,
      "text": folder.text,
      "tokenizer": folder.tokenizer.name if folder.tokenizer else None,
      "naflex": folder.naflex,
  }


def _workdir(path: Path, step: int | None) -> dict[str, Any]:
  """Reads a workdir, with the image tower that a run on embeddings keeps."""
  # Only runs need Orbax, which takes longer to import than other weights take
  # to be read.
  from siglip_jax.weights import workdirs

  # Parameters alone can start another run, so they need no config.
  config, problem = None, None
  try:
    config = workdir_lib.read_config(path)
  except UserError as e:
    problem = str(e)
  if problem and not workdirs.kept_steps(path):
    raise UserError(problem)
  params, spec, step = workdirs.read_params(path, step)
  model = None if config is None else config.model.to_dict()
  sizes = {k: config and config[k] for k in ("image_size", "text_len")}
  # A later start may have written another config, so a checkpoint that says
  # what its model is comes first. Those of earlier versions do not say.
  if "model" in spec:
    model, problem = dict(spec["model"]), None
    sizes = {k: spec[k] for k in sizes}
  if "img" not in params and (path / embeddings.TOWER).is_file():
    scan = bool(model and model.get("scan"))
    params |= tower_file.kept(path, spec["tower_digest"], scan)
    model = model and model | {"embedded": False}
  digest = spec["tokenizer_digest"]
  return {
      "kind": "workdir",
      "params": params,
      "model": model,
      **sizes,
      "image": spec["image"],
      "text": spec["text"],
      "tokenizer": workdir_lib.tokenizer_path(path, digest).name,
      "tokenizer_digest": digest,
      "spec": spec,
      "step": step,
      "problem": problem,
  }
