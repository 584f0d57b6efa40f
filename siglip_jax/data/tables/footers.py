"""Parquet files as row groups: what their footers say, without their rows."""

from collections.abc import Callable
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import functools
import hashlib
import io
import os
from typing import Any

from jaxtyping import Int64
import numpy as np

from siglip_jax.data import opening
from siglip_jax.data import remote
from siglip_jax.data.images import ImageError
from siglip_jax.data.tables.arrow import arrow
from siglip_jax.errors import UserError

_THREADS = 32  # wait for storage together
_FOOTERS = 256  # kept in memory, of about 1 MB each in large files


class RangeFile(io.RawIOBase):
  """A file that reads ranges where it is asked to, for pyarrow.

  Attributes:
    error: the exception that ended the last read, which pyarrow may reword.
  """

  def __init__(self, ranges: remote.Ranges, index: int, size: int):
    super().__init__()
    self._ranges, self._index, self._size = ranges, index, size
    self._place = 0
    self.error: Exception | None = None

  def readable(self) -> bool:
    """Returns True."""
    return True

  def seekable(self) -> bool:
    """Returns True."""
    return True

  def tell(self) -> int:
    """Returns the place of the next read."""
    return self._place

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    """Sets the place of the next read."""
    start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}
    self._place = start[whence] + offset
    return self._place

  def read(self, size: int = -1) -> bytes:
    """Returns the next bytes, fewer at the end of the file."""
    left = self._size - self._place
    size = left if size is None or size < 0 else max(min(size, left), 0)
    try:
      data = self._ranges.read(self._index, self._place, size)
    except Exception as e:
      self.error = e
      raise
    self._place += len(data)
    return data


@dataclasses.dataclass(frozen=True, eq=False)
class Footers:
  """The row groups of several Parquet files of one schema.

  Threads may share it; a pickle has no open files.

  Attributes:
    paths: the files.
    sizes: bytes of each file.
    etags: etag of each file, or "".
    schema: the pyarrow schema of the first file.
    files: for each row group, the number of its file.
    numbers: for each row group, its number within its file.
    rows: for each row group, how many rows it has.
    columns: the columns that records need.
    group_bytes: for each row group, the bytes of these columns, decompressed.
    digest: 12 hexadecimal digits of names, sizes, rows and schema.
  """

  paths: tuple[str, ...]
  sizes: tuple[int, ...]
  etags: tuple[str, ...]
  schema: Any
  files: np.ndarray
  numbers: np.ndarray
  rows: np.ndarray
  columns: tuple[str, ...]
  group_bytes: np.ndarray
  digest: str

  @functools.cached_property
  def _ranges(self) -> remote.Ranges:
    return remote.Ranges(self.paths, etags=self.etags)

  @functools.cached_property
  def _metadata(self):
    return functools.lru_cache(_FOOTERS)(self._read_metadata)

  def __getstate__(self):
    fields = dataclasses.fields(self)
    return {field.name: getattr(self, field.name) for field in fields}

  def _read_metadata(self, file: int) -> Any:
    return _metadata(self._open(file), self.paths[file])

  def _open(self, file: int) -> RangeFile:
    return RangeFile(self._ranges, file, self.sizes[file])

  def read(self, group: int) -> Any:
    """Returns the table of a row group's columns that records need.

    Raises:
      ImageError: it cannot be decoded.
      UserError: the file was changed, or is gone.
      OSError: it could not be read.
    """
    file, number = int(self.files[group]), int(self.numbers[group])
    metadata = self._metadata(file)
    whole = number < metadata.num_row_groups
    if not whole or metadata.row_group(number).num_rows != self.rows[group]:
      raise UserError(
          f"{self.paths[file]} must not change during a run; its row groups"
          " are others now. Start again."
      )
    return self._decode(
        file,
        metadata,
        lambda f: f.read_row_group(number, [*self.columns], False),
    )

  def column(self, name: str, rows: Int64[np.ndarray, " n"]) -> list[Any]:
    """Returns a column of some rows, as an array in chunks for each file.

    Only the row groups are read that have one of the rows.

    Args:
      name: the column.
      rows: numbers of rows over all row groups, in ascending order.

    Raises:
      UserError: a file cannot be read, or does not have the column.
    """
    ends = np.cumsum(self.rows)
    groups = np.searchsorted(ends, rows, side="right")
    within = rows - (ends - self.rows)[groups]
    files = np.unique(self.files[groups])
    bounds = np.searchsorted(self.files[groups], [*files, len(self.paths)])

    def read(i: int) -> Any:
      part = slice(bounds[i], bounds[i + 1])
      return self._rows(int(files[i]), name, groups[part], within[part])

    what = f"Reading column {name!r} of Parquet files"
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      parts = pool.map(read, range(len(files)))
      return list(opening.track(parts, what, total=len(files)))

  def _rows(
      self, file: int, name: str, groups: np.ndarray, within: np.ndarray
  ) -> Any:
    """Returns a column of rows of a file, by row group and row within it."""
    used, numbers = np.unique(groups, return_inverse=True)
    counts = self.rows[used]
    starts = np.cumsum(counts) - counts
    try:
      table = self._decode(
          file,
          self._metadata(file),
          lambda f: f.read_row_groups(
              self.numbers[used].tolist(), [name], use_threads=False
          ),
      )
    except (ImageError, OSError) as e:
      raise UserError(f"{self.paths[file]} cannot be read: {e}.") from None
    if name not in table.column_names:
      raise UserError(
          f"All Parquet files must have the column {name!r};"
          f" {self.paths[file]} does not. Leave that file out."
      )
    return table.column(name).take(starts[numbers] + within)

  def _decode(self, file: int, metadata: Any, read) -> Any:
    source = self._open(file)
    try:
      # One column after the other lies in a file: they are read together.
      opened = arrow().parquet.ParquetFile(
          source, metadata=metadata, pre_buffer=True
      )
      return read(opened)
    except Exception as e:  # pyarrow raises OSError for damage, too
      if source.error is not None:
        raise source.error from None
      reason = str(e).strip().partition("\n")[0]
      raise ImageError(
          f"{self.paths[file]} cannot be decoded: {reason}"
      ) from None


def _metadata(file: RangeFile, path: str) -> Any:
  pa = arrow()
  try:
    return pa.parquet.read_metadata(file)
  except (pa.ArrowException, OSError, ValueError) as e:
    if file.error is not None:
      raise file.error from None
    reason = str(e).strip().rstrip(".").partition("\n")[0]
    raise UserError(
        f"{path} must be a Parquet file; it cannot be read: {reason}."
    ) from None


def open_files(
    patterns: str | Sequence[str], choose: Callable[[Any], Sequence[str]]
) -> Footers:
  """Returns the row groups of the files that patterns name.

  Args:
    patterns: one or several paths, local or remote, with braces or stars.
    choose: returns the columns that records need, from the first file's schema.

  Raises:
    UserError: a file is missing or is not a Parquet file, or lacks a column of
      the first one's type; or pyarrow is not installed.
  """
  arrow()
  paths = tuple(remote.expand(patterns))
  stats = remote.stat(paths)
  sizes, etags = tuple(s.size for s in stats), tuple(s.etag for s in stats)
  ranges = remote.Ranges(paths, etags=etags)

  def footer(i: int) -> Any:
    try:
      return _metadata(RangeFile(ranges, i, sizes[i]), paths[i])
    except OSError as e:
      raise UserError(f"{paths[i]} cannot be read: {e}.") from None

  first = _schema(footer(0))
  columns = tuple(choose(first))

  def described(i: int) -> list[tuple[int, int, int]]:
    metadata = footer(i)
    _check_schema(paths, i, columns, first, _schema(metadata))
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [(g.num_rows, g.total_byte_size, _bytes(g, columns)) for g in groups]

  what = "Opening Parquet files"
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    parts = pool.map(described, range(len(paths)))
    described_files = list(opening.track(parts, what, total=len(paths)))
  content = [
      (os.path.basename(path), size, [group[:2] for group in groups])
      for path, size, groups in zip(paths, sizes, described_files, strict=True)
  ]
  digest = hashlib.sha256(repr((content, str(first))).encode())
  counts = [len(groups) for groups in described_files]
  table = np.array([g for f in described_files for g in f], int).reshape(-1, 3)
  return Footers(
      paths=paths,
      sizes=sizes,
      etags=etags,
      schema=first,
      files=np.repeat(np.arange(len(paths)), counts),
      numbers=np.concatenate([np.arange(count) for count in counts]),
      rows=table[:, 0],
      columns=columns,
      group_bytes=table[:, 2],
      digest=digest.hexdigest()[:12],
  )


def _schema(metadata: Any) -> Any:
  return metadata.schema.to_arrow_schema().remove_metadata()


def _bytes(group: Any, columns: Sequence[str]) -> int:
  """Returns the bytes of some columns of a row group, decompressed."""
  chunks = [group.column(i) for i in range(group.num_columns)]
  return sum(
      c.total_uncompressed_size
      for c in chunks
      if c.path_in_schema.startswith(tuple(f"{name}." for name in columns))
      or c.path_in_schema in columns
  )


def _check_schema(
    paths: Sequence[str], i: int, columns: Sequence[str], first: Any, other: Any
) -> None:
  """Raises UserError unless file `i` has the needed columns of the first."""
  for name in columns:
    types = [
        str(s.field(name).type) if name in s.names else "missing"
        for s in (first, other)
    ]
    # A column of which a file has no value at all is of the type null.
    if types[0] != types[1] and "null" not in types:
      raise UserError(
          "Parquet files that are read together must have the same columns;"
          f" {name!r} is {types[0]} in {paths[0]} and {types[1]} in"
          f" {paths[i]}, which has {', '.join(other.names)}. Give the files"
          " that belong together."
      )
