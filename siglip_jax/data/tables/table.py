"""A source of images that a CSV, TSV or JSON lines file names.

CSVs of open_clip (`filepath`, `title`, separated by tabs) are such files. The
images are files of this machine; img2dataset fetches those of URLs.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import copy
import hashlib
import os
from pathlib import Path
from typing import Any

from absl import logging
from jaxtyping import Bool
from jaxtyping import Int64
import numpy as np

from siglip_jax import files
from siglip_jax.data import captions
from siglip_jax.data import opening
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables import lines
from siglip_jax.data.tables import places
from siglip_jax.data.tables import several
from siglip_jax.data.tables.strings import Strings
from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError

IMAGES = ("filepath", "image", "file_name", "path")
TEXTS = ("title", "text", "caption")
_SEVERAL = "\0"  # before each text of a list; no text has it
_SPLITS = ("all", "train", "validation")


class TableSource:
  """A source of the rows of a table of paths and texts.

  A record has `image`, the file's bytes; `text`, a text or a list of texts; and
  the texts under the names of their columns. Rows without any text are left
  out.

  Args:
    table: a .csv, .tsv or .txt whose first line has the names of its columns,
      or a .jsonl of objects.
    image: column with the paths, which may be absolute. By default, the first
      of `IMAGES` that is there.
    text: column with the text, or in a .jsonl with a list of texts. By default,
      the first of `TEXTS` that is there.
    texts: column -> weight, instead of `text`.
    sep: what separates values; by default it is looked for in the first line.
    root: the folder from which relative paths start; by default the table's.
    split: "all", "train" or "validation". A hash of an image's path puts a
      twentieth of the images in validation.
    select: which rows to read of those that the source would have without; by
      default, all.

  Raises:
    UserError: the table cannot be read, a row has another form, or an image is
      not there.
  """

  def __init__(
      self,
      table: str | Path,
      *,
      image: str | None = None,
      text: str | None = None,
      texts: Mapping[str, float] | None = None,
      sep: str | None = None,
      root: str | Path | None = None,
      split: str = "all",
      select: Bool[np.ndarray, " rows"] | None = None,
  ):
    if files.is_remote(table):
      raise UserError(
          f"A table is a file of this machine; got {table}. Copy it here."
      )
    self.path = Path(os.path.expanduser(table))
    self.root = self.path.parent if root is None else Path(root).expanduser()
    self._sep = sep
    names = lines.names(self.path, sep)
    self._image = image or _first(self.path, names, IMAGES)
    if text is None and texts is None:
      text = _first(self.path, names, TEXTS)
    self._texts = Texts.of(text, texts)
    self._paths, self._columns = self._read()
    self._check_images()
    self._kept = self._choose(split, select)

  def _read(self) -> tuple[Strings, dict[str, Strings]]:
    """Returns the paths, and the texts of each column."""
    keys = [key for key in self._texts.keys if key != self._image]
    rows = lines.rows(self.path, [self._image, *keys], self._sep)
    texts: list[list[str]] = [[] for _ in keys]

    def read() -> Iterator[str]:
      for number, (path, *values) in opening.track(
          rows, f"Reading {self.path}, rows"
      ):
        yield _path(self.path, number, path)
        for key, column, value in zip(keys, texts, values, strict=True):
          column.append(_packed(self.path, number, key, value))

    paths = Strings.of(read())
    columns = zip(keys, map(Strings.of, texts), strict=True)
    return paths, dict(columns)

  def _check_images(self) -> None:
    """Raises UserError unless each path is a file."""
    what = f"Looking for the images of {self.path}, directories"
    missing, _ = places.look_up(self.root, self._paths, what, inside=False)
    if not missing:
      return
    first = next(i for i, path in enumerate(self._paths) if path in missing)
    rows = lines.rows(self.path, [self._image], self._sep)
    number = next(line for i, (line, _) in enumerate(rows) if i == first)
    path = self._paths[first]
    more = f" In all, {len(missing)} images are missing."
    raise UserError(
        f"{self.path}, line {number}: there is no image {path[:200]!r} in"
        f" {self.root}.{more if len(missing) > 1 else ''} Paths start from"
        " there unless they begin with /."
    )

  def _choose(
      self, split: str, select: np.ndarray | None
  ) -> Int64[np.ndarray, " N"]:
    """Returns the rows of a split that are selected and have a text."""
    if split not in _SPLITS:
      raise UserError(
          f"The split of a table is all, train or validation; got {split!r}."
      )
    count = len(self._paths)
    lengths = [np.diff(c.ends, prepend=0) for c in self._columns.values()]
    chosen = np.any(lengths, axis=0)
    if bare := count - int(chosen.sum()):
      logging.warning(
          "%s: %d of %d rows have no text and are left out",
          self.path,
          bare,
          count,
      )
    if split != "all":
      validation = map(captions.in_validation, self._paths)
      chosen &= np.fromiter(validation, bool, count) == (split == "validation")
    rows = np.flatnonzero(chosen)
    if select is not None:
      if select.shape != rows.shape:
        raise UserError(
            f"A selection must be of the {len(rows)} rows that {self.path} has"
            f" in the split {split!r}; got {len(select)}. Make it from this"
            " table."
        )
      rows = rows[select]
    if not len(rows):
      raise UserError(
          f"At least one row of {self.path} must be read; of its {count}, none"
          f" has a text, is in the split {split!r} and is selected. Check the"
          " table and the filters."
      )
    return rows

  def selected(self, select: Bool[np.ndarray, " N"]) -> "TableSource":
    """Returns a source of some of these records; the table is not read again.

    Args:
      select: which of the records to have.
    """
    source = copy.copy(self)
    source._kept = self._kept[select]
    return source

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = int(self._kept[index])
    try:
      image = (self.root / self._paths[row]).read_bytes()
    except OSError as e:
      raise ImageError(e.strerror or str(e)) from None
    return several.with_text(self._texts, self._fields(row) | {"image": image})

  def _fields(self, row: int) -> dict[str, Any]:
    return {key: _unpacked(c[row]) for key, c in self._columns.items()}

  def draw(
      self, record: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns the record with one of its texts as `text`."""
    return several.draw(self._texts, record, rng)

  def key(self, index: int) -> str:
    """Returns the image's path."""
    return str(self.root / self._paths[int(self._kept[index])])

  def columns(self, name: str) -> np.ndarray:
    """Returns a column of all records.

    Texts that are all numbers, without zeros before them, become numbers. An
    absent number is NaN and an absent text None.

    Raises:
      UserError: the column is not there, or has lists or objects.
    """
    rows = lines.rows(self.path, [name], self._sep)
    every = [values[0] for _, values in rows]
    column = [every[row] for row in self._kept.tolist()]
    for value in column:
      if not isinstance(value, str | int | float | None):
        raise UserError(
            "A column to filter by must have texts, numbers or truth values;"
            f" {name!r} of {self.path} has {value!r:.80}. Choose another one."
        )
    return _numbers([None if value == "" else value for value in column])

  def values(self, key: str) -> list[Any] | None:
    """Returns the values under `key` of all records, as `values_of` does."""
    return self.values_of(key, range(len(self)))

  def values_of(
      self, key: str, indices: Sequence[int] | np.ndarray
  ) -> list[Any] | None:
    """Returns a column, or the texts, of some records, without images.

    Args:
      key: "text", or a column.
      indices: the records.

    Returns:
      Their values; None if there is no such column.
    """
    places = np.asarray(indices, np.int64)
    if key == "text" or key in self._columns:
      fields = map(self._fields, self._kept[places].tolist())
      if key == "text":
        return list(map(self._texts.all, fields))
      return [record[key] for record in fields]
    if key not in lines.names(self.path, self._sep):
      return None
    return self.columns(key)[places].tolist()

  def image_ids(self) -> list[str]:
    """Returns each record's image path, which repeats with its image."""
    return [os.path.normpath(self._paths[row]) for row in self._kept.tolist()]

  def digest(self) -> str:
    """Returns a digest of the table and of the rows that are read."""
    with self.path.open("rb") as file:
      content = hashlib.file_digest(file, "sha256").digest()
    words = content + self._kept.tobytes()
    return hashlib.sha256(words).hexdigest()[:12]


def _first(path: Path, names: Sequence[str], candidates: Sequence[str]) -> str:
  for name in candidates:
    if name in names:
      return name
  raise lines.missing(path, names, " or ".join(candidates))


def _path(table: Path, number: int, value: Any) -> str:
  """Returns the path of an image.

  Raises:
    UserError: it is a URL, or is not a path.
  """
  if not isinstance(value, str) or not value or "\0" in value:
    raise UserError(
        f"{table}, line {number} must name an image; got {value!r:.100}."
    )
  if files.is_remote(value):
    raise UserError(
        f"{table}, line {number} must name a file of this machine; got the URL"
        f" {value:.100}. Fetch the images with img2dataset, and read the .tar"
        " files that it makes with `tars`."
    )
  return value


def _packed(table: Path, number: int, key: str, value: Any) -> str:
  """Returns a text, or several texts, as one text."""
  values = value if isinstance(value, list) else [value]
  texts = ["" if text is None else text for text in values]
  if not all(isinstance(text, str) and _SEVERAL not in text for text in texts):
    raise UserError(
        f"{table}, line {number}: {key!r} must be a text or a list of texts;"
        f" got {value!r:.100}."
    )
  texts = [text for text in texts if text and not text.isspace()]
  if isinstance(value, list):
    return "".join(_SEVERAL + text for text in texts)
  return texts[0] if texts else ""


def _unpacked(value: str) -> str | list[str]:
  if value.startswith(_SEVERAL):
    return value[1:].split(_SEVERAL)
  return value


def _numbers(column: list[Any]) -> np.ndarray:
  """Returns a column as numbers if all of its values are."""
  texts = [value for value in column if isinstance(value, str)]
  padded = any(t[:1] == "0" and t[1:2].isdigit() for t in texts)
  whole = None not in column
  if column and not padded:
    for type_ in (int, float) if whole else (float,):
      try:
        values = [np.nan if v is None else type_(v) for v in column]
        if all(map(_equal, values, column)):
          return np.array(values)
      except (ValueError, OverflowError):
        pass
  return np.array([*column, None], object)[:-1]


def _equal(number: float, value: Any) -> bool:
  """Whether a conversion kept a number; texts are as they are."""
  return isinstance(value, str | None) or number == value
