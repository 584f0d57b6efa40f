"""The types of Arrow columns that data may have, and values within them.

pyarrow is an extra: it is imported when Parquet files are opened.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from siglip_jax.errors import UserError


def arrow() -> Any:
  """Returns the module pyarrow.

  Raises:
    UserError: it is not installed.
  """
  try:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet
  except ImportError:
    raise UserError(
        "Parquet files are read with pyarrow, which is not installed. Run `pip"
        " install 'siglip_jax[web]'`."
    ) from None
  return pyarrow


def path_of(schema: Any, key: str) -> list[str] | None:
  """Returns the names from a column to the field that a key means.

  Args:
    schema: the schema of a table.
    key: a column; or fields inside structs, or inside lists of structs, as
      "sentences.raw".

  Returns:
    The names, the column's first; None if there is no such field.
  """
  if key in schema.names:
    return [key]
  first, *rest = key.split(".")
  if first not in schema.names or not rest:
    return None
  type_ = schema.field(first).type
  for name in rest:
    type_ = _of_items(type_)
    if not arrow().types.is_struct(type_) or type_.get_field_index(name) < 0:
      return None
    type_ = type_.field(name).type
  return [first, *rest]


def type_at(schema: Any, path: Sequence[str]) -> Any:
  """Returns the type of the field that `path_of` found."""
  type_ = schema.field(path[0]).type
  for name in path[1:]:
    type_ = _of_items(type_).field(name).type
  return type_


def inside(column: Any, name: str) -> Any:
  """Returns a field of a column of structs, as an array in chunks."""
  pa = arrow()
  if pa.types.is_null(column.type):
    return column
  number = column.type.get_field_index(name)
  chunks = [chunk.flatten()[number] for chunk in column.chunks]
  return pa.chunked_array(chunks, column.type.field(number).type)


def follow(value: Any, path: Sequence[str]) -> Any:
  """Returns the part of a column's value that `path_of` found; None if absent.

  Args:
    value: a Python value of the column.
    path: the names of `path_of`, without the column's.
  """
  for number, name in enumerate(path):
    if value is None:
      return None
    if isinstance(value, list):
      rest = path[number:]
      parts = [follow(item, rest) for item in value]
      return [part for part in parts if part is not None]
    value = value[name]
  return value


def is_text(type_: Any) -> bool:
  """Whether values are texts or lists of texts."""
  types = arrow().types
  type_ = _of_items(type_)
  if types.is_dictionary(type_):
    type_ = type_.value_type
  names = (types.is_string, types.is_large_string, types.is_string_view)
  return types.is_null(type_) or any(test(type_) for test in names)


def is_scalar(type_: Any) -> bool:
  """Whether values are texts, numbers or truth values, and not lists."""
  types = arrow().types
  if _of_items(type_) is not type_:
    return False
  if types.is_dictionary(type_):
    type_ = type_.value_type
  tests = (types.is_integer, types.is_floating, types.is_boolean)
  return is_text(type_) or any(test(type_) for test in tests)


def is_bytes(type_: Any) -> bool:
  """Whether values are bytes."""
  types = arrow().types
  tests = (
      types.is_binary,
      types.is_large_binary,
      types.is_binary_view,
      types.is_fixed_size_binary,
  )
  return any(test(type_) for test in tests)


def _of_items(type_: Any) -> Any:
  """Returns the type of a list's items, or of the value if it is not a list."""
  types = arrow().types
  while types.is_list(type_) or types.is_large_list(type_):
    type_ = type_.value_type
  return type_


def to_numpy(column: Any) -> np.ndarray:
  """Returns a column of scalars as NumPy.

  Numbers that are absent are NaN; texts are objects, with None for absent ones.

  Args:
    column: an array in chunks, of a type that `is_scalar` accepts.
  """
  pa = arrow()
  if pa.types.is_dictionary(column.type):
    column = column.cast(column.type.value_type)
  if pa.types.is_boolean(column.type) and column.null_count:
    column = column.cast(pa.float32())
  if is_text(column.type):
    return np.array([*column.to_pylist(), ""], object)[:-1]
  return column.to_numpy()
