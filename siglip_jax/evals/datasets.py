"""Builds evaluators from named data: the images and their class names."""

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import os
from pathlib import Path
from typing import Any

from absl import logging
import numpy as np

from siglip_jax.data import kinds
from siglip_jax.data import opening
from siglip_jax.data import sources
from siglip_jax.data.images import ImageError
from siglip_jax.data.images import decode
from siglip_jax.errors import UserError
from siglip_jax.evals.retrieval import Retrieval
from siglip_jax.evals.zeroshot import Zeroshot

_THREADS = 16  # wait for storage together


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
    class_folders: bool = False,
    embeddings: str | None = None,
    **data: Any,
) -> Zeroshot:
  """Returns the zero-shot classification of a split.

  Args:
    dataset: name of the data set in metrics.
    split: split with the images.
    text: record key of the true class name; the candidates are all names in
      this split and the splits `classes`.
    label: record key of the true class number; the candidates are the lines of
      `class_file`.
    class_folders: whether `path` is a folder with a folder for each class, in
      which "label" is the number of an image's folder, in sorted order.
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
  if class_folders:
    data = {**data, "templates": ("{}",)}
  source = _images(split, embeddings, data)
  if text is not None and label is None:
    truths = _texts(source, text)
    names = sorted(
        {n for s in classes for n in _texts(kinds.make(split=s, **data), text)}
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
    leave_out_unreadable: bool = False,
    **data: Any,
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
    leave_out_unreadable: whether to leave out images that cannot be decoded,
      for data from the web. Otherwise they are an error. Each start of a run
      decodes all images for it.
    **data: `name`, `path`, `data_dir`, ..., as in config.data.
  """
  source = _images(split, embeddings, data)
  if leave_out_unreadable and not embeddings:
    source = _readable(source, dataset)
  images = sources.image_ids(source)
  if image_id is not None:
    types = (str, int, np.integer)
    images = _column(source, image_id, types, "a text or a whole number")
  with _advice():
    texts = sources.captions(source, text)
  return Retrieval(dataset=dataset, source=source, texts=texts, images=images)


def _images(split: str, embeddings: str | None, data) -> sources.Source:
  if embeddings:
    return kinds.make(split=split, embeddings=embeddings)
  return kinds.make(split=split, **data)


def _readable(source: sources.Source, dataset: str) -> sources.Source:
  """Returns a source of the records whose images can be decoded."""

  def readable(index: int) -> bool:
    try:
      decode(source[index]["image"])
      return True
    except (ImageError, OSError):
      return False

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    each = pool.map(readable, range(len(source)))
    what = f"Decoding images of config.evals for {dataset}"
    good = list(opening.track(each, what, total=len(source)))
  kept = [index for index, fine in enumerate(good) if fine]
  if len(kept) < len(source):
    logging.warning(
        "%d of %d images of config.evals for %s cannot be read and are left"
        " out",
        len(source) - len(kept),
        len(source),
        dataset,
    )
  return sources.Subset(source, kept)


def _texts(source: sources.Source, key: str) -> list[str]:
  return _column(source, key, (str,), "one text")


def _labels(source: sources.Source, key: str) -> list[int]:
  types = (int, np.integer)
  return [int(x) for x in _column(source, key, types, "a whole number")]


def _column(
    source: sources.Source, key: str, types: tuple[type, ...], expected: str
) -> list[Any]:
  """Returns the value under `key` of each record, all of the same types."""
  with _advice():
    values = sources.values(source, key)
    for index, value in enumerate(values):
      if not isinstance(value, types) or isinstance(value, bool):
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
