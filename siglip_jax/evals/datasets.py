"""Builds evaluators from named data: the images and their class names."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from siglip_jax.data import sources
from siglip_jax.errors import UserError
from siglip_jax.evals.retrieval import Retrieval
from siglip_jax.evals.zeroshot import Zeroshot


def classification(
    *,
    dataset: str,
    split: str,
    text: str | None = None,
    label: str | None = None,
    classes: Sequence[str] = (),
    class_file: str | None = None,
    templates: Sequence[str] = ("{}",),
    gallery: int = 24,
    embeddings: str | None = None,
    **data,
) -> Zeroshot:
  """Returns the zero-shot classification of a split.

  Args:
    dataset: name of the data set in metrics.
    split: split with the images.
    text: record key of the true class name; the candidates are all names in
      this split and the splits `classes`.
    label: record key of the true class number; the candidates are the lines of
      `class_file`.
    classes: further splits to take class names from.
    class_file: text file with one class name per line, in label order.
    templates: prompts; "{}" stands for the class name.
    gallery: number of images to show in the report; with `embeddings`, none.
    embeddings: folder of the images' embeddings, for a run without an image
      tower; `data` then locate only the splits `classes`.
    **data: `name`, `path`, `data_dir`, as in config.data.

  Raises:
    UserError: neither `text` nor `label` with `class_file` is given, or the
      data do not have what they name.
  """
  source = _images(split, embeddings, data)
  if text is not None and label is None:
    truths = _texts(source, text)
    names = sorted(
        {
            n
            for s in classes
            for n in _texts(sources.make(split=s, **data), text)
        }
        | set(truths)
    )
    number = {n: i for i, n in enumerate(names)}
    labels = [number[n] for n in truths]
  elif label is not None and class_file is not None:
    names = _class_names(class_file)
    labels = _labels(source, label)
  else:
    raise UserError(
        f"config.evals for {dataset} needs `text` and `classes`, or `label` and"
        " `class_file`."
    )
  return Zeroshot(
      dataset=dataset,
      source=source,
      class_names=names,
      labels=labels,
      templates=tuple(templates),
      gallery=0 if embeddings else gallery,
  )


def retrieval(
    *,
    dataset: str,
    split: str,
    text: str = "text",
    image_id: str | None = None,
    embeddings: str | None = None,
    **data,
) -> Retrieval:
  """Returns image-text retrieval within a split.

  Args:
    dataset: name of the data set in metrics.
    split: split with the images and captions.
    text: record key of an image's caption, or of the list of its captions.
    image_id: record key of a text or number that is equal where records share
      an image. By default records do that name the same file of a folder.
    embeddings: folder of the images' embeddings, for a run without an image
      tower.
    **data: `name`, `path`, `data_dir`, as in config.data.
  """
  source = _images(split, embeddings, data)
  images = sources.image_ids(source)
  if image_id is not None:
    kinds = (str, int, np.integer)
    images = _column(source, image_id, kinds, "a text or a whole number")
  with _advice():
    texts = sources.captions(source, text)
  return Retrieval(dataset=dataset, source=source, texts=texts, images=images)


def _images(split: str, embeddings: str | None, data) -> sources.Source:
  if embeddings:
    return sources.make(split=split, embeddings=embeddings)
  return sources.make(split=split, **data)


def _texts(source: sources.Source, key: str) -> list[str]:
  return _column(source, key, (str,), "one text")


def _labels(source: sources.Source, key: str) -> list[int]:
  kinds = (int, np.integer)
  return [int(x) for x in _column(source, key, kinds, "a whole number")]


def _column(
    source: sources.Source, key: str, kinds: tuple[type, ...], expected: str
) -> list[Any]:
  """Returns the value under `key` of each record, all of the same kinds."""
  with _advice():
    values = sources.values(source, key)
    for index, value in enumerate(values):
      if not isinstance(value, kinds) or isinstance(value, bool):
        raise sources.bad_value(source, key, index, expected, value)
  return values


@contextlib.contextmanager
def _advice() -> Iterator[None]:
  """Says where the key of a bad value comes from."""
  try:
    yield
  except sources.BadValue as e:
    raise UserError(
        f"Evaluation: {e} Change the key, `text` or `label` in config.evals."
    ) from None


def _class_names(path: str) -> list[str]:
  """Returns the lines of a class file, without white space around them."""
  try:
    text = Path(os.path.expanduser(path)).read_text("utf-8-sig")
  except OSError as e:
    raise UserError(
        f"There is no class file {path} that can be read ({e.strerror or e}):"
        " expected one class name a line, in the order of the labels."
    ) from None
  except UnicodeDecodeError as e:
    raise UserError(
        f"A class file must be UTF-8; {path} is not, at byte {e.start}. Convert"
        " it, for example with iconv."
    ) from None
  names = [line.strip() for line in text.rstrip().split("\n")]
  lines: dict[str, int] = {}
  for number, name in enumerate(names, 1):
    if not name:
      raise UserError(
          f"{path}, line {number} is blank: expected one class name a line, in"
          " the order of the labels. Remove the line, or name the class."
      )
    if name in lines:
      raise UserError(
          f"{path} must name each class once; lines {lines[name]} and {number}"
          f" are both {name!r}. Tell the two apart."
      )
    lines[name] = number
  return names
