"""CSV, TSV and JSON lines, read row by row with the numbers of their lines."""

from collections.abc import Iterator
from collections.abc import Sequence
import csv
import json
import os
from pathlib import Path
import stat
from typing import Any

from siglip_jax.data import captions
from siglip_jax.errors import UserError

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
_SEPARATORS = "\t,;|"
_SHOWN = 20  # columns in a message

Row = tuple[int, list[Any]]  # number of the first line, values


def rows(
    path: Path, columns: Sequence[str], sep: str | None = None
) -> Iterator[Row]:
  """Yields the values of some columns, row by row.

  Args:
    path: a .jsonl of objects, or a .csv, .tsv or .txt with names in its first
      line. Values of the latter are texts.
    columns: the columns, in the order of the values.
    sep: what separates the values; by default, the one of tab, comma, semicolon
      and bar with which the first line has the columns.

  Yields:
    Each row's first line, from 1, and its values.

  Raises:
    UserError: the file cannot be read, a column is not there, or a row has
      another form.
  """
  _check(path, sep)
  try:
    if path.suffix.lower() == ".jsonl":
      yield from _objects(path, columns)
    else:
      yield from _table(path, columns, sep)
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror or e}.") from None


def names(path: Path, sep: str | None = None) -> list[str]:
  """Returns the names of the columns; of JSON lines, those in the first line.

  Raises:
    UserError: the file cannot be read.
  """
  _check(path, sep)
  try:
    with path.open("rb") as file:
      first = next(_decoded(path, file), "")
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror or e}.") from None
  if path.suffix.lower() == ".jsonl":
    return list(_object(path, 1, first)) if first.strip() else []
  return _split(path, first, sep or _separator(path, first, ()))


def _check(path: Path, sep: str | None) -> None:
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(
        f"A table must be a {', '.join(SUFFIXES)} file; got {path}. Parquet"
        " files that hold images are given as `parquet`."
    )
  if sep is not None and (len(sep) != 1 or sep in '\r\n"'):
    raise UserError(f"`sep` must be one character, as ','; got {sep!r}.")
  try:
    regular = stat.S_ISREG(os.stat(path).st_mode)
  except (OSError, ValueError) as e:
    reason = getattr(e, "strerror", None) or e
    raise UserError(f"{path} cannot be read: {reason}.") from None
  if not regular:
    raise UserError(f"A table must be a file; {path} is not. Give its path.")


def _decoded(path: Path, file) -> Iterator[str]:
  for number, data in enumerate(file, 1):
    try:
      yield data.decode() if number > 1 else captions.utf8(str(path), data)
    except UnicodeDecodeError:
      captions.utf8(f"{path}, line {number}", data)


def _separator(path: Path, line: str, columns: Sequence[str]) -> str:
  """Returns the separator of a first line, which has the columns."""
  splits = {sep: _split(path, line, sep) for sep in _SEPARATORS}
  for sep, parts in splits.items():
    if columns and set(columns) <= set(parts):
      return sep
  return max(splits, key=lambda sep: len(splits[sep]))


def _split(path: Path, line: str, sep: str) -> list[str]:
  try:
    parts = next(csv.reader([line], delimiter=sep), [])
  except csv.Error as e:
    raise UserError(f"{path}, line 1 cannot be read: {e}.") from None
  return [part.strip() for part in parts]


def _table(
    path: Path, columns: Sequence[str], sep: str | None
) -> Iterator[Row]:
  with path.open("rb") as file:
    lines = _decoded(path, file)
    first = next(lines, "")
    sep = sep or _separator(path, first, columns)
    header = _split(path, first, sep)
    places = [_place(path, header, name) for name in columns]
    reader = csv.reader(lines, delimiter=sep)
    try:
      number = 2
      for row in reader:
        if len(row) == len(header):
          yield number, [row[place] for place in places]
        elif row:
          raise UserError(
              f"{path}, line {number} must have {len(header)} values, as its"
              f" first line; it has {len(row)}. Put values with"
              f" {sep!r}, quotes or line ends in them into double quotes."
          )
        number = reader.line_num + 2
    except csv.Error as e:
      raise UserError(
          f"{path}, line {number} cannot be read: {e}. Check its quotes."
      ) from None


def _place(path: Path, header: Sequence[str], name: str) -> int:
  if header.count(name) == 1:
    return header.index(name)
  if name in header:
    raise UserError(
        f"{path} must have one column {name!r}; its first line has"
        f" {header.count(name)}. Rename the others."
    )
  raise missing(path, header, name)


def missing(path: Path, header: Sequence[str], name: str) -> UserError:
  """Returns the error about a column that a table does not have."""
  some = ", ".join(map(repr, header[:_SHOWN])) or "no columns"
  return UserError(
      f"{path} must have the column {name!r}; it has {some:.400}. Name the"
      " columns of images and texts: `image` and `text` of data with `table`."
  )


def _objects(path: Path, columns: Sequence[str]) -> Iterator[Row]:
  with path.open("rb") as file:
    for number, line in enumerate(_decoded(path, file), 1):
      if not line.strip():
        continue
      entry = _object(path, number, line)
      try:
        yield number, [entry[name] for name in columns]
      except KeyError as e:
        where = Path(f"{path}, line {number}")
        raise missing(where, list(entry), e.args[0]) from None


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
  try:
    entry = json.loads(line)
    if "\\u" in line:  # a lone surrogate, which UTF-8 cannot encode
      json.dumps(entry, ensure_ascii=False).encode()
    if isinstance(entry, dict):
      return entry
  except (ValueError, RecursionError):
    pass
  raise UserError(
      f'{path}, line {number} must be an object, as {{"image": "a/b.png",'
      f' "text": "..."}}; got {line[:80]!r}.'
  )
