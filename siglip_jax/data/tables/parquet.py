"""A source of Parquet files that hold images, read by whole row groups.

Sets of the Hugging Face hub (a column `image` of bytes and path) and of
img2dataset (a column `jpg` of bytes, and `caption`) are read as they are.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import copy
import hashlib
import os
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from jaxtyping import Int64
import numpy as np

from siglip_jax.data.images import ImageError
from siglip_jax.data.tables import arrow
from siglip_jax.data.tables import choice
from siglip_jax.data.tables import columns
from siglip_jax.data.tables import footers
from siglip_jax.data.tables import groups
from siglip_jax.data.tables import several
from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError

IMAGES = "image;jpg;png;webp"
_TEXTS = ("text", "caption")
_MOST = 64 << 20  # bytes of a row group
_FAR = 0.25  # share of substitutes that come from any row group


class ParquetSource:
  """A source of the rows of Parquet files; a block is a row group.

  A record has `image`, as bytes; `text`, a text or a list of texts; and the
  columns that `text` or `texts` and `keep` name.

  Args:
    parquet: one or several paths, local or remote, with braces or stars.
    image: columns with the image, of which the first that is there is read:
      bytes, or a struct with a field `bytes`.
    text: column with the text, or with a list of texts; a field inside structs
      is "a.b". By default `text`, else `caption`, if there is one.
    texts: column -> weight, instead of `text`.
    split: "all", "train" or "validation". A hash of a file's name and a row's
      number puts a twentieth of the rows in validation.
    keep: further columns of texts, numbers or truth values.
    select: which rows of the split to read; by default, all.

  Raises:
    UserError: the files cannot be opened, lack a column, or have row groups
      that are too large to read.
  """

  def __init__(
      self,
      parquet: str | Sequence[str],
      *,
      image: str = IMAGES,
      text: str | None = None,
      texts: Mapping[str, float] | None = None,
      split: str = "all",
      keep: Sequence[str] = (),
      select: Bool[np.ndarray, " rows"] | None = None,
  ):
    self._image_columns, self._text, self._weights = image, text, texts
    self._keep = tuple(keep)
    self._footers = footers.open_files(parquet, self._choose)
    self._resolve(self._footers.schema)
    _check_sizes(self._footers)
    self._rows = choice.choose(self._footers, split, select)
    self._folder = None
    self._start()

  def _start(self) -> None:
    self._memory = groups.Memory(self._decode)
    self._files = groups.Files()

  def __getstate__(self):
    state = dict(self.__dict__)
    del state["_memory"], state["_files"]
    return state

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._start()  # another process has caches of its own

  def _choose(self, schema: Any) -> list[str]:
    self._resolve(schema)
    return list(dict.fromkeys([self._image[0], *self._names]))

  def _resolve(self, schema: Any) -> None:
    """Finds the columns that the arguments name."""
    self._image = columns.image_path(schema, self._image_columns)
    text, texts = self._text, self._weights
    if text is None and texts is None:
      text = next((name for name in _TEXTS if name in schema.names), None)
    self._texts = Texts.of(text, texts) if text or texts else None
    keys = self._texts.keys if self._texts else ()
    self._paths = {key: columns.text_path(schema, key) for key in keys}
    for key in self._keep:
      self._paths[key] = columns.scalar_path(schema, key)
    self._names = list(dict.fromkeys(path[0] for path in self._paths.values()))

  def selected(self, select: Bool[np.ndarray, " N"]) -> "ParquetSource":
    """Returns a source of some of these records; the files stay open.

    Args:
      select: which of the records to have.
    """
    source = copy.copy(self)
    source._rows = self._rows.selected(select)
    source._start()
    return source

  def __len__(self) -> int:
    return int(self._rows.starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    block, row = self._rows.place(index)
    image, *rest = self._from_file(block, row) or self._memory.row(block, row)
    if not image:
      raise ImageError(f"column {'.'.join(self._image)!r} has no bytes")
    values = dict(zip(self._names, rest, strict=True))
    record = {
        key: arrow.follow(values[path[0]], path[1:])
        for key, path in self._paths.items()
    }
    record["image"] = image
    if self._texts:
      record = several.with_text(self._texts, record)
      if not record["text"]:
        keys = ", ".join(self._texts.keys)
        raise ImageError(f"it has no text under {keys}")
    return record

  def _from_file(self, block: int, row: int) -> list[Any] | None:
    path = self._folder.wait(block) if self._folder is not None else None
    if path is None:
      return None
    try:
      return self._files.row(block, Path(path), row)
    except FileNotFoundError:
      return None  # its window is over

  def _decode(self, block: int) -> Any:
    """Returns the rows of a block that are read, decoded."""
    group = int(self._rows.blocks[block])
    table = self._footers.read(group)
    if self._rows.bits is not None:
      table = table.take(self._rows.within(group))
    return groups.tidy(table, self._image, self._names)

  def key(self, index: int) -> str:
    """Returns the file and the row's number in it, from 0."""
    group, row = self._rows.of(index)
    file = self._footers.files[group]
    first = np.searchsorted(self._footers.files, file)
    row += int(self._footers.rows[first:group].sum())
    return f"{self._footers.paths[file]}[{row}]"

  def draw(
      self, record: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns the record with one of its texts as `text`."""
    return several.draw(self._texts, record, rng) if self._texts else record

  def substitute(self, index: int, rng: np.random.Generator) -> int:
    """Returns a record to read instead of one that cannot be read.

    It is mostly of the same block, which is there already.
    """
    if rng.random() < _FAR:
      return int(rng.integers(len(self)))
    block, _ = self._rows.place(index)
    return int(rng.integers(*self._rows.starts[block : block + 2]))

  def columns(self, name: str) -> np.ndarray:
    """Returns a column of all records.

    Absent numbers are NaN; texts are objects, with None for absent ones.

    Raises:
      UserError: there is no such column of texts, numbers or truth values.
    """
    first, *fields = columns.scalar_path(self._footers.schema, name)
    parts = []
    for column in self._footers.column(first, self._rows.numbers()):
      for field in fields:
        column = arrow.inside(column, field)
      parts.append(arrow.to_numpy(column))
    return np.concatenate(parts)

  def values(self, key: str) -> list[Any] | None:
    """Returns the values under `key` of all records, as `values_of` does."""
    return self.values_of(key, None)

  def values_of(
      self, key: str, indices: Sequence[int] | np.ndarray | None
  ) -> list[Any] | None:
    """Returns a column, or the texts, of some records, without images.

    Args:
      key: "text", or a column.
      indices: the records; None for all.

    Returns:
      Their values; None if there is no such column, or it has the images.
    """
    if key == "text" and self._texts:
      paths = {k: self._paths[k] for k in self._texts.keys}
    else:
      path = arrow.path_of(self._footers.schema, key)
      if path is None or path[0] == self._image[0]:
        return None
      paths = {key: path}
    rows = self._rows.numbers(indices)
    order = np.argsort(rows, kind="stable")
    fields = {
        k: [
            arrow.follow(value, path[1:])
            for column in self._footers.column(path[0], rows[order])
            for value in column.to_pylist()
        ]
        for k, path in paths.items()
    }
    ordered = fields.get(key, [])
    if key == "text" and self._texts:
      rows_of_texts = zip(*fields.values(), strict=True)
      ordered = [
          self._texts.all(dict(zip(fields, row, strict=True)))
          for row in rows_of_texts
      ]
    places = np.argsort(order)
    return [ordered[place] for place in places.tolist()]

  def digest(self) -> str:
    """Returns a digest of the files and of the rows that are read.

    It is of names, sizes, rows and columns: the files are not read for it.
    """
    bits = self._rows.bits
    words = self._footers.digest.encode() + self._rows.starts.tobytes()
    words += b"" if bits is None else bits.tobytes()
    return hashlib.sha256(words).hexdigest()[:12]

  @property
  def block_starts(self) -> Int64[np.ndarray, " _"]:
    """Indices of the records with which blocks begin, and the length."""
    return self._rows.starts

  def block_bytes(self, block: int) -> int:
    """Returns the bytes of a block's columns, decompressed."""
    return int(self._footers.group_bytes[self._rows.blocks[block]])

  def write_block(self, block: int, path: str | os.PathLike) -> None:
    """Decodes a block and writes it to a file.

    Raises:
      UserError: the block cannot be decoded, or its file was changed.
      OSError: it could not be read, or the new file cannot be written.
    """
    try:
      table = self._decode(block)
    except ImageError as e:
      number = self._footers.numbers[self._rows.blocks[block]]
      raise UserError(
          f"All row groups must be readable; {e} (row group {number}). Write"
          " the file again, or leave it out."
      ) from None
    groups.write(table, path)

  def use_blocks(self, folder: Any) -> None:
    """Reads records from the files in a folder of blocks from now on."""
    self._folder = folder


def _check_sizes(opened: footers.Footers) -> None:
  """Raises UserError if a row group is too large to be read as a whole."""
  if not len(opened.rows) or (most := opened.group_bytes.max()) <= _MOST:
    return
  group = int(opened.group_bytes.argmax())
  rows = max(1, int(opened.rows[group] * (_MOST // 4) / most))
  path = opened.paths[opened.files[group]]
  raise UserError(
      f"Row groups may have at most {_MOST >> 20} MB, because they are read as"
      f" a whole; row group {opened.numbers[group]} of {path} has"
      f" {most >> 20} MB. Rewrite each file, IN to OUT: `import"
      " pyarrow.parquet as p; f = p.ParquetFile(IN); w = p.ParquetWriter(OUT,"
      f" f.schema_arrow); [w.write_batch(b) for b in f.iter_batches({rows})];"
      " w.close()`."
  )
