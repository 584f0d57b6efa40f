"""`load`: trained weights of any origin, with the preprocessing they need."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
import jax

from siglip_jax import files
from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.data.embeddings import TOWER
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError
from siglip_jax.inference.model import SigLIP
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import fits
from siglip_jax.weights import layouts

DTYPES = ("float32", "bfloat16", "float16")


def load(
    path: files.AnyPath,
    *,
    weights: files.AnyPath | None = None,
    tokenizer: files.AnyPath | None = None,
    variant: str | zoo.Variant | None = None,
    dtype: str | None = None,
    batch_size: int = 64,
) -> SigLIP:
  """Loads a model to encode and classify with, on the local devices.

    load("runs/emoji")                                a workdir of this project
    load("siglip-base-patch16-256")                   a transformers folder
    load("siglip-b16-256", weights="b16.npz", tokenizer="c4.model")
    load("b16.npz", tokenizer="c4.model")             big_vision's weights

  A workdir and a transformers folder say how texts and images are prepared. An
  .npz does not: it is prepared as the released model is that has its sizes,
  and refused where there is none, or `variant` does not say which.

  Args:
    path: any of the above, local or remote (gs://, s3://, hf://); the name of a
      released model is one of `zoo.names()`.
    weights: of the released model named `path`: an .npz or a transformers
      folder, which are checked to be that model.
    tokenizer: the tokenizer's file; where it is published is in the error that
      its absence gives. Images need none.
    variant: which released model the weights must be, or a `zoo.Variant` of
      your own.
    dtype: of activations and matmuls, one of `DTYPES`; as trained by default,
      which for released weights is float32.
    batch_size: most images or texts at a time.

  Raises:
    UserError: what is missing, damaged, or does not belong together.
  """
  if batch_size < 1:
    raise UserError(f"batch_size must be a positive integer; got {batch_size}.")
  if dtype is not None and dtype not in DTYPES:
    raise UserError(
        f"dtype must be one of {', '.join(DTYPES)}, or None for the model's"
        f" own; got {dtype!r}."
    )
  if weights is not None:
    _refuse(path, "name of a released model", variant=variant)
  released = zoo.get(variant) if isinstance(variant, str) else variant
  found = weights_lib.read(path, weights=weights, variant=released)
  if found.kind == "workdir":
    _refuse(path, "workdir", tokenizer=tokenizer, variant=variant)
    _check_shapes(found)
  if found.kind == "npz":
    found = _as_released(found)
  text = _text(found, tokenizer)
  spec: dict[str, Any] = {
      "image": found.image,
      "text": found.text,
      "image_size": found.image_size,
      "text_len": found.text_len,
  }
  if text is not None and text.tokenizer is not None:
    spec["tokenizer_digest"] = text.tokenizer.digest
  model, params = _model(found)
  mesh = sharding.make_mesh(jax.local_devices())
  return SigLIP(
      model=dataclasses.replace(model, dtype=dtype or model.dtype),
      params=jax.device_put(params, sharding.replicated(mesh)),
      mesh=mesh,
      spec=spec,
      text=text,
      batch_size=batch_size,
  )


def _refuse(path: files.AnyPath, what: str, **options) -> None:
  """Refuses options that this kind of model has no use for."""
  for option, value in options.items():
    if value is not None:
      raise UserError(
          f"{path} is a {what}, which needs no {option}; got"
          f" {option}={value!r}. Leave it out."
      )


def _model(found: weights_lib.Weights) -> tuple[TwoTowers, dict]:
  """Returns the towers, and parameters laid out for them."""
  assert found.model is not None, found.path
  model = TwoTowers(**found.model)
  if found.kind == "workdir":
    return model, dict(found.params)
  return model, layouts.unrolled(found.params)


def _check_shapes(found: weights_lib.Weights) -> None:
  model, params = _model(found)
  if model.embedded:
    raise UserError(
        f"{found.path} was trained on embeddings and holds no {TOWER}, the"
        " image tower that made them: copy it from the folder of embeddings."
    )
  side, length = found.image_size, found.text_len
  assert side is not None and length is not None, "of config.json"
  shapes = model.shapes((side, side, 3), length)
  if _shapes(params) != _shapes(shapes):
    raise UserError(
        f"The newest checkpoint of {found.path} is not of the model in its"
        " config.json. The command that trained the run writes it again."
    )


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
  return {name: x.shape for name, x in tree.flatten(params).items()}


def _as_released(found: weights_lib.Weights) -> weights_lib.Weights:
  """Completes an .npz by the released model that it is, or seems to be."""
  variant = found.variant
  if variant is None:
    raise UserError(
        f"{found.path} has the sizes of no released model, so how its texts and"
        " images are prepared is not known: load the workdir or the"
        " transformers folder it is from."
    )
  if found.checked is None:
    logging.warning(
        "Assuming %s is %s, because its shapes match.", found.path, variant.name
    )
  return found.as_released("big_vision")


def _text(
    found: weights_lib.Weights, tokenizer: files.AnyPath | None
) -> Preprocess | None:
  """Returns the preprocessing of texts, None where there is no tokenizer."""
  assert found.model is not None and found.text is not None, found.path
  by_hand, path = tokenizer is not None, tokenizer or found.tokenizer
  if path is None:
    return None
  # A folder's own tokenizer is trusted; another one is compared with the
  # published one, and identifying the model traces it.
  variant = found.checked or (found.variant if by_hand else None)
  text = fits.open_text(found.text, tokenizer=path, variant=variant)
  assert text.tokenizer is not None, "every model's text is tokenized"
  if found.kind == "workdir":
    _check_digest(found, text)
    return text
  rows = found.model["text"]["vocab_size"]
  fits.check(
      text.tokenizer,
      rows=rows,
      variant=found.checked,
      exact=by_hand and not found.checked,
  )
  if variant is not None and found.checked is None:
    try:
      fits.check(text.tokenizer, rows=rows, variant=variant)
    except UserError as e:
      logging.warning("%s has the sizes of %s. %s", found.path, variant.name, e)
  return text


def _check_digest(found: weights_lib.Weights, text: Preprocess) -> None:
  assert text.tokenizer is not None and found.tokenizer_digest is not None
  if text.tokenizer.digest != found.tokenizer_digest:
    raise UserError(
        f"{text.tokenizer.path} is not the tokenizer the weights were trained"
        f" with: sha256 {found.tokenizer_digest[:12]}..., got"
        f" {text.tokenizer.digest[:12]}.... Restore the file."
    )
