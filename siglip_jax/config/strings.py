"""The preprocessing strings of a config, which must agree with each other.

`config.data.pp` makes examples of records in training; `config.preprocess`
makes images and texts alone, in evaluation and inference.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from siglip_jax.data import pipeline
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import arguments
from siglip_jax.data.preprocess import parse
from siglip_jax.data.sources import Source
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
  """What `make` makes: three parsed strings, and what they have in common."""

  train: Preprocess
  image: Preprocess
  text: Preprocess
  value_range: tuple[float, float]
  tokenizer: Tokenizer


def check(config: Mapping[str, Any]) -> None:
  """Texts must be tokenized once, alike in training and later, to text_len.

  config.preprocess.variant may name the released model whose tokenizer it is.

  Raises:
    UserError: they are not; found without any file.
  """
  _variant(config["preprocess"])
  specs = {
      "config.data.pp": config["data"]["pp"],
      "config.preprocess.text": config["preprocess"]["text"],
  }
  found = {}
  for field, spec in specs.items():
    calls = [call for call in parse(spec) if call[0] == "tokenize"]
    if len(calls) != 1:
      raise UserError(
          f"{field} must hold tokenize once, as in"
          f" 'lower|tokenize(max_len=64, model=\"t.model\")'; got {spec!r}."
      )
    found[field] = arguments(*calls[0])
  train, later = found.values()
  if train != later:
    raise UserError(
        "config.data.pp and config.preprocess.text must tokenize alike; got"
        f" {train} and {later}."
    )
  if later["max_len"] != config["text_len"]:
    raise UserError(
        "config.text_len must be the max_len of tokenize, which is"
        f" {later['max_len']} in config.data.pp and config.preprocess.text;"
        f" got {config['text_len']}. Change one of them."
    )


def make(config: ml_collections.ConfigDict, source: Source) -> Preprocessing:
  """Parses the strings, opens the tokenizer and tries one example.

  Args:
    config: validated.
    source: the training data.

  Raises:
    UserError: the strings, the data and the model do not fit.
  """
  variant = _variant(config.preprocess)
  train = fits.open_text(config.data.pp, variant=variant)
  image = Preprocess(config.preprocess.image)
  text = fits.open_text(config.preprocess.text, variant=variant)
  embedded = isinstance(source, Embeddings)
  wanted = None if embedded else image.value_range
  if image.value_range is None or train.value_range != wanted:
    raise UserError(
        "config.data.pp and config.preprocess.image must end their image's"
        " part in the same value_range, where config.data are not embeddings;"
        f" got {train.value_range} and {image.value_range}."
    )
  tokenizer = text.tokenizer
  assert tokenizer is not None, "seen by `check`"
  fits.check(tokenizer, rows=config.model.text.vocab_size, variant=variant)
  side, length = config.image_size, config.text_len
  images = {"image": ((side, side, 3), np.uint8)}
  texts = {"text": ((length,), np.int32)}
  if embedded:
    given = {"image": ((source.dim,), source.dtype)}
    _try("config.data.pp", train, source, given | texts)
  else:
    _try("config.data.pp", train, source, images | texts)
    _try("config.preprocess.image", image, source, images)
  return Preprocessing(
      train=train,
      image=image,
      text=text,
      value_range=image.value_range,
      tokenizer=tokenizer,
  )


def _variant(
    section: Mapping[str, Any] | ml_collections.ConfigDict,
) -> zoo.Variant | None:
  """The released model that config.preprocess names, if it does."""
  return zoo.get(section["variant"]) if "variant" in section else None


def _try(field: str, pp: Preprocess, source: Source, wanted: Mapping) -> None:
  """Compares an example with what the model takes."""
  batch = next(
      pipeline.train_iterator(source, pp, batch_size=1, seed=0, total_steps=1)
  )
  for key, (shape, dtype) in wanted.items():
    got, expected = "none", f"{np.dtype(dtype)} of shape {shape}"
    if key in batch:
      got = f"{batch[key].dtype} of shape {batch[key].shape[1:]}"
    if got != expected:
      raise UserError(
          f"{field} must make {key!r} {expected}, as config.image_size and"
          f" config.text_len say; got {got}. Change one of them."
      )
