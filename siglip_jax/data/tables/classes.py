"""A source of images in a folder for each class, as ImageNet is laid out.

The caption of an image is its class in a template, as "a photo of a {}.".
"""

from collections.abc import Sequence
import hashlib
from pathlib import Path
from typing import Any

from jaxtyping import Int64
import numpy as np

from siglip_jax import files
from siglip_jax.data import captions
from siglip_jax.data import folder_files
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables.strings import Strings
from siglip_jax.errors import UserError

_SPLITS = ("all", "train", "validation")


class ClassSource:
  """A source of the images in the folders of a folder.

  A record has `image`, the file's bytes; `text`, the class in the template, or
  the list of these if there are several; and `label`, the number of the class.

  Args:
    path: a folder with a folder for each class, which may be a link.
    templates: captions, in which "{}" stands for the class.
    class_file: a text file with a class in each line, in the order of labels:
      either a folder's name, a space or tab and the class, or the class alone,
      in the order of the folders' names. By default, a class is the name of its
      folder, with spaces for underscores, and labels are in that order.
    split: "all", "train" or "validation". A hash of an image's path puts a
      twentieth of the images in validation.

  Attributes:
    class_names: the classes, in the order of labels.

  Raises:
    UserError: there are no such folders, an image is in none of them, or the
      file has other classes.
  """

  def __init__(
      self,
      path: str | Path,
      *,
      templates: Sequence[str] = ("{}",),
      class_file: str | Path | None = None,
      split: str = "all",
  ):
    self.folder = folder_files.existing(path)
    self._templates = _checked(templates)
    images = folder_files.images(self.folder)
    _check_layout(self.folder, images)
    folders = sorted({image.partition("/")[0] for image in images})
    order, self.class_names = _classes(folders, class_file)
    labels = [order[image.partition("/")[0]] for image in images]
    if split not in _SPLITS:
      raise UserError(
          f"The split of a folder is all, train or validation; got {split!r}."
      )
    if split != "all":
      inside = [captions.in_validation(i) == (split != "train") for i in images]
      images = [image for image, i in zip(images, inside, strict=True) if i]
      labels = [label for label, i in zip(labels, inside, strict=True) if i]
    if not images:
      raise UserError(
          f"The folder {self.folder} has no image in the split {split}: a"
          " twentieth goes to validation. Add images, or use split='all'."
      )
    self._images = Strings.of(images)
    self._labels: Int64[np.ndarray, " N"] = np.array(labels, np.int64)

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      image = (self.folder / self._images[index]).read_bytes()
    except OSError as e:
      raise ImageError(e.strerror or str(e)) from None
    label = int(self._labels[index])
    return {"image": image, "text": self._text(label), "label": label}

  def _text(self, label: int) -> str | list[str]:
    name = self.class_names[label]
    texts = [template.replace("{}", name) for template in self._templates]
    return texts[0] if len(texts) == 1 else texts

  def draw(
      self, record: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns the record with one of its texts as `text`."""
    text = record["text"]
    if isinstance(text, str):
      return record
    return record | {"text": text[int(rng.integers(len(text)))]}

  def key(self, index: int) -> str:
    """Returns the image's path."""
    return str(self.folder / self._images[index])

  def values(self, key: str) -> list[Any] | None:
    """Returns the texts or labels, opening no file; else None."""
    if key == "label":
      return self._labels.tolist()
    if key == "text":
      return [self._text(label) for label in self._labels.tolist()]
    return None

  def digest(self) -> str:
    """Returns a digest of all paths and texts in their order."""
    words = repr((self.class_names, self._templates)).encode()
    words += self._images.ends.tobytes() + self._labels.tobytes()
    return hashlib.sha256(words + self._images.data).hexdigest()[:12]


def _checked(templates: Sequence[str]) -> tuple[str, ...]:
  several = (templates,) if isinstance(templates, str) else tuple(templates)
  for template in several:
    if not isinstance(template, str) or "{}" not in template:
      raise UserError(
          "A template must be a text with {} for the class, as 'a photo of a"
          f" {{}}.'; got {template!r}."
      )
  if not several:
    raise UserError("`templates` must have at least one; it is empty.")
  return several


def _check_layout(folder: Path, images: Sequence[str]) -> None:
  if not images:
    raise UserError(
        f"The folder {folder} must have a folder of images for each class; it"
        f" has no images.{folder_files.hint(folder)}"
    )
  loose = [image for image in images if "/" not in image]
  if loose:
    raise UserError(
        "Each image must lie in the folder of its class;"
        f" {folder / loose[0]} lies in none ({len(loose)} of {len(images)}"
        " images do not). Move or remove them."
    )


def _classes(
    folders: Sequence[str], class_file: str | Path | None
) -> tuple[dict[str, int], list[str]]:
  """Returns the label of each folder, and the classes in order of labels."""
  if class_file is None:
    names = [name.replace("_", " ") for name in folders]
    return {folder: i for i, folder in enumerate(folders)}, names
  entries = _lines(class_file)
  pairs = [entry.split(maxsplit=1) for entry in entries]
  labels = {pair[0]: i for i, pair in enumerate(pairs)}
  if all(folder in labels for folder in folders):
    return labels, [pair[-1].strip() for pair in pairs]
  if len(entries) == len(folders):
    return {folder: i for i, folder in enumerate(folders)}, entries
  absent = next(folder for folder in folders if folder not in labels)
  raise UserError(
      f"{class_file} must have a line for each of the {len(folders)} folders,"
      f" which begins with the folder's name; it has {len(entries)} lines and"
      f" none for {absent!r}. Add it, or give classes in the order of folders."
  )


def _lines(class_file: str | Path) -> list[str]:
  data = files.read_bytes(class_file)
  if data is None:
    raise UserError(f"There is no class_file {class_file}. Check the path.")
  text = captions.utf8(str(class_file), data)
  entries = [line.strip() for line in text.splitlines() if line.strip()]
  if not entries:
    raise UserError(
        f"{class_file} must have a class in each line; it is empty."
    )
  return entries
