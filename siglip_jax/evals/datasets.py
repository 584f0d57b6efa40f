"""Builds evaluators from named data: the images and their class names."""

from collections.abc import Sequence
from pathlib import Path

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
    names = _lines(class_file)
    labels = _values(source, label, int)
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
    embeddings: str | None = None,
    **data,
) -> Retrieval:
  """Returns image-text retrieval within a split.

  Args:
    dataset: name of the data set in metrics.
    split: split with the images and captions.
    text: record key of the captions.
    embeddings: folder of the images' embeddings, for a run without an image
      tower.
    **data: `name`, `path`, `data_dir`, as in config.data.
  """
  source = _images(split, embeddings, data)
  return Retrieval(dataset=dataset, source=source, texts=_texts(source, text))


def _images(split: str, embeddings: str | None, data) -> sources.Source:
  if embeddings:
    return sources.make(split=split, embeddings=embeddings)
  return sources.make(split=split, **data)


def _texts(source, key: str) -> list[str]:
  """Returns the texts of a source, without decoding its images."""
  return _values(source, key, str)


def _values(source, key: str, kind: type) -> list:
  """Returns the value under `key` of each record."""
  values = []
  for i in range(len(source)):
    record = source[i]
    if key not in record:
      raise UserError(
          f"Evaluation needs {key!r} in every record; {source.key(i)} has"
          f" {', '.join(record)}. Change `text` or `label` in config.evals."
      )
    try:
      values.append(kind(record[key]))
    except (TypeError, ValueError):
      raise UserError(
          f"Evaluation needs {key!r} to be of type {kind.__name__};"
          f" {source.key(i)} has {record[key]!r}. Change `text` or `label` in"
          " config.evals."
      ) from None
  return values


def _lines(path: str) -> list[str]:
  if not Path(path).exists():
    raise UserError(
        f"There is no class file {path}: expected one class name a line, in the"
        " order of the labels."
    )
  return Path(path).read_text("utf-8").splitlines()
