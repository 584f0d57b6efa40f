"""The preprocessing strings of a config, which must agree with each other.

`config.data.pp` turns records into training examples. `config.preprocess` has
one string for images and one for texts, used in evaluation and inference.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from siglip_jax.data import order
from siglip_jax.data.cache import Cache
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.loader import chunks
from siglip_jax.data.loader.examples import Share
from siglip_jax.data.loader.examples import TrainingExamples
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import Record
from siglip_jax.data.preprocess import arguments
from siglip_jax.data.preprocess import parse
from siglip_jax.data.sources import Source
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
  """Three parsed strings, and the value range and tokenizer they share."""

  train: Preprocess
  image: Preprocess
  text: Preprocess
  value_range: tuple[float, float]
  tokenizer: Tokenizer


def check(config: Mapping[str, Any]) -> None:
  """Checks how texts are tokenized, without opening any file.

  Each string must tokenize once, in the same way in training and afterwards,
  to config.text_len tokens. config.preprocess.variant may name the released
  model whose tokenizer it is.

  Raises:
    UserError: the strings break one of these rules.
  """
  _variant(config["preprocess"])
  specs = {
      "config.data.pp": config["data"]["pp"],
      "config.preprocess.text": config["preprocess"]["text"],
  }
  options = {}
  for field, spec in specs.items():
    calls = [call for call in parse(spec) if call[0] == "tokenize"]
    if len(calls) != 1:
      raise UserError(
          f"{field} must hold tokenize once, as in"
          f" 'lower|tokenize(max_len=64, model=\"t.model\")'; got {spec!r}."
      )
    options[field] = arguments(*calls[0])
  train, later = options.values()
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
    config: a validated config.
    source: the training data.

  Raises:
    UserError: the strings, the data and the model do not fit together.
  """
  variant = _variant(config.preprocess)
  train = fits.open_text(config.data.pp, variant=variant)
  image = Preprocess(config.preprocess.image)
  text = fits.open_text(config.preprocess.text, variant=variant)
  embedded = isinstance(source, Embeddings)
  expected_range = None if embedded else image.value_range
  if image.value_range is None or train.value_range != expected_range:
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
    stored = {"image": ((source.dim,), source.dtype)}
    _check_example("config.data.pp", train, source, stored | texts)
  else:
    parts = [part.source for part in getattr(source, "parts", ())]
    for each in parts or [source]:
      _check_example("config.data.pp", train, each, images | texts)
      _check_example("config.preprocess.image", image, each, images)
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
  """Returns the released model that config.preprocess names, or None."""
  return zoo.get(section["variant"]) if "variant" in section else None


def _one_example(source: Source, pp: Preprocess) -> Record:
  """Returns an example as training would make it, of any order."""
  if not len(source):
    raise UserError("The data are empty: there is nothing to read.")
  examples = TrainingExamples(
      source,
      pp,
      cache=Cache(0),
      indices=order.Global(len(source), seed=0).indices,
      share=Share(first=0, batches=1, batch_size=1),
  )
  return chunks.one(examples, 0, 0)


def _check_example(
    field: str, pp: Preprocess, source: Source, arrays: Mapping
) -> None:
  """Checks one example against the shapes and types that the model takes."""
  example = _one_example(source, pp)
  for key, (shape, dtype) in arrays.items():
    got, expected = "none", f"{np.dtype(dtype)} of shape {shape}"
    if key in example:
      value = np.asarray(example[key])
      got = f"{value.dtype} of shape {value.shape}"
    if got != expected:
      raise UserError(
          f"{field} must make {key!r} {expected}, as config.image_size and"
          f" config.text_len say; got {got}. Change one of them."
      )
