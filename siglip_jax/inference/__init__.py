"""Loading of trained models, with the preprocessing that they need."""

import dataclasses
from typing import Any

from absl import logging
import jax

from siglip_jax import files
from siglip_jax import sharding
from siglip_jax import weights as weights_lib
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
    step: int | None = None,
    dtype: str | None = None,
    batch_size: int = 64,
) -> SigLIP:
  """Loads a model to encode and classify with, on the local devices.

    load("runs/emoji")                                a workdir of this project
    load("runs/emoji", step=2000)                     an earlier checkpoint
    load("siglip-base-patch16-256")                   a transformers folder
    load("siglip-b16-256", weights="b16.npz", tokenizer="c4.model")
    load("b16.npz", tokenizer="c4.model")             big_vision's weights

  A workdir and a transformers folder say how to prepare images and texts. An
  .npz does not: its inputs are prepared as for the released model with the same
  sizes, or the one that `variant` names. If there is none, it is refused.

  Args:
    path: any of the above, local or remote (gs://, s3://, hf://); the name of a
      released model is one of `zoo.names()`.
    weights: .npz or transformers folder with the weights of the released model
      named `path`; they are checked to be that model.
    tokenizer: path of the tokenizer's file; if it is missing, the error says
      where it is published. Images need none.
    variant: released model that the weights must be, or a `zoo.Variant` of your
      own.
    step: step of the checkpoint of a workdir; by default the newest that can be
      read. `spec["step"]` of the model says which one that is.
    dtype: type of activations and matmuls, one of `DTYPES`; by default the one
      the model was trained in, which for released weights is float32.
    batch_size: largest number of images or texts to encode at a time.

  Raises:
    UserError: a file is missing or damaged, or the arguments do not fit
      together.
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
  loaded = weights_lib.read(path, weights=weights, variant=released, step=step)
  if loaded.kind == "workdir":
    _refuse(path, "workdir", tokenizer=tokenizer, variant=variant)
    fits.check_run(loaded)
  if loaded.kind == "npz":
    loaded = _as_released(loaded)
  text = _text(loaded, tokenizer)
  spec: dict[str, Any] = {
      "image": loaded.image,
      "text": loaded.text,
      "image_size": loaded.image_size,
      "text_len": loaded.text_len,
  }
  spec |= loaded.spec or {}
  if loaded.step is not None:
    spec["step"] = loaded.step
  if text is not None and text.tokenizer is not None:
    spec["tokenizer_digest"] = text.tokenizer.digest
  model, params = _model(loaded)
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
  """Refuses options that do not apply to this kind of model."""
  for option, value in options.items():
    if value is not None:
      raise UserError(
          f"{path} is a {what}, which needs no {option}; got"
          f" {option}={value!r}. Leave it out."
      )


def _model(weights: weights_lib.Weights) -> tuple[TwoTowers, dict]:
  """Returns the towers, and the parameters in the layout that they expect."""
  assert weights.model is not None, weights.path
  model = TwoTowers(**weights.model)
  if weights.kind == "workdir":
    return model, dict(weights.params)
  return model, layouts.unrolled(weights.params)


def _as_released(weights: weights_lib.Weights) -> weights_lib.Weights:
  """Completes an .npz from the released model that it is or seems to be."""
  variant = weights.variant
  if variant is None:
    raise UserError(
        f"{weights.path} has the sizes of no released model, so how its texts"
        " and images are prepared is not known: load the workdir or the"
        " transformers folder it is from."
    )
  if weights.checked is None:
    logging.warning(
        "Assuming %s is %s, because its shapes match.",
        weights.path,
        variant.name,
    )
  return weights.as_released("big_vision")


def _text(
    weights: weights_lib.Weights, tokenizer: files.AnyPath | None
) -> Preprocess | None:
  """Returns the preprocessing of texts, or None if there is no tokenizer."""
  assert weights.model is not None and weights.text is not None, weights.path
  by_hand, path = tokenizer is not None, tokenizer or weights.tokenizer
  if path is None:
    return None
  # A folder's own tokenizer is trusted. Another one is compared with the
  # published one, which takes longer: identifying the model traces it.
  variant = weights.checked or (weights.variant if by_hand else None)
  text = fits.open_text(weights.text, tokenizer=path, variant=variant)
  assert text.tokenizer is not None, "every model's text is tokenized"
  if weights.kind == "workdir":
    fits.check_digest(text.tokenizer, weights.tokenizer_digest)
    return text
  rows = weights.model["text"]["vocab_size"]
  fits.check(
      text.tokenizer,
      rows=rows,
      variant=weights.checked,
      exact=by_hand and not weights.checked,
  )
  if variant is not None and weights.checked is None:
    try:
      fits.check(text.tokenizer, rows=rows, variant=variant)
    except UserError as e:
      logging.warning(
          "%s has the sizes of %s. %s", weights.path, variant.name, e
      )
  return text
