"""The preprocessing of a config: its strings must agree with each other.

`config.data.pp` makes examples of records in training; `config.preprocess`
makes images and texts alone, in evaluation and ever after.
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
from siglip_jax.data.preprocess import meaning
from siglip_jax.data.preprocess import parse
from siglip_jax.data.preprocess import render
from siglip_jax.data.sources import Source
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers


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
  published = variant.tokenizer_places if variant else None
  train = Preprocess(config.data.pp, published=published)
  image = Preprocess(config.preprocess.image)
  text = Preprocess(config.preprocess.text, published=published)
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
  rows, pieces = config.model.text.vocab_size, tokenizer.vocab_size
  if variant is not None:
    variant.check_tokenizer(
        tokenizer.path, pieces=pieces, digest=tokenizer.digest
    )
  if not zoo.has_rows_for(rows, pieces):
    raise UserError(
        "config.model.text.vocab_size must be at least that of the tokenizer,"
        f" {pieces} in {tokenizer.path}; got {rows}. Raise it, or train a"
        " smaller tokenizer."
    )
  side, length = config.image_size, config.text_len
  images = {"image": ((side, side, 3), np.uint8)}
  texts = {"text": ((length,), np.int32)}
  if embedded:
    check_embeddings(config, source)
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


def image_part(spec: str) -> str:
  """The part of a string that makes an image, up to its value_range.

  Raises:
    UserError: it has none.
  """
  calls = parse(spec)
  names = [name for name, *_ in calls]
  if "value_range" not in names:
    raise UserError(
        "Preprocessing of images must end in value_range, as in"
        f" 'decode|resize(224)|value_range(-1,1)'; got {spec!r}."
    )
  images = calls[: names.index("value_range") + 1]
  return render(call for call in images if call[0] != "tokenize")


def tower(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What embeddings depend on beside the parameters, as a manifest has it."""
  return {
      "tower_sizes": TwoTowers(**config.model.to_dict()).image_sizes,
      "image_size": config.image_size,
      "image": config.preprocess.image,
  }


def same_tower(key: str, one: Any, other: Any) -> bool:
  """Whether two values of a key of `tower` mean the same."""
  if key == "image":
    one, other = map(meaning, (one, other))
  return one == other


def check_embeddings(
    config: ml_collections.ConfigDict, found: Embeddings
) -> None:
  """Embeddings must be what the config's image tower makes of images.

  Raises:
    UserError: they are another tower's, or of other pixels.
  """
  for key, wanted in tower(config).items():
    got = found.manifest[key]
    if not same_tower(key, got, wanted):
      raise UserError(
          f"{found.folder} holds embeddings made with {key} = {got!r}, and this"
          f" config has {wanted!r}. Change the config, or make the embeddings"
          " again in a new folder."
      )


def check_evaluation(
    config: ml_collections.ConfigDict, found: Embeddings, digest: str
) -> None:
  """`check_embeddings` of an evaluation, which needs all images, unchanged.

  Args:
    config: of the run.
    found: the evaluation's.
    digest: of the tower that made the embeddings trained on.

  Raises:
    UserError: they are another tower's, augmented, or some are missing.
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
