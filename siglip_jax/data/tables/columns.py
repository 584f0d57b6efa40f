"""Columns of Parquet files that hold what a record needs."""

from typing import Any

from siglip_jax.data.tables import arrow
from siglip_jax.errors import UserError


def image_path(schema: Any, names: str) -> list[str]:
  """Returns the names from a column to the bytes of the image.

  Args:
    schema: the schema of the files.
    names: columns, separated by semicolons; the first that is there counts.

  Raises:
    UserError: no such column is there, or it does not hold bytes.
  """
  candidates = [name for name in names.split(";") if name]
  for name in candidates:
    path = arrow.path_of(schema, name)
    if path is None:
      continue
    inside = arrow.path_of(schema, f"{name}.bytes")
    for found in (path, inside):
      if found and arrow.is_bytes(arrow.type_at(schema, found)):
        return found
    raise UserError(
        "The column of images must hold their bytes, or a struct with a field"
        f" `bytes`; {name!r} is {arrow.type_at(schema, path)}. If it holds"
        " URLs or paths, img2dataset fetches the images."
    )
  raise _no_column(
      schema,
      "image",
      names,
      " Parquet files beside tar shards hold no images: give the tars.",
  )


def text_path(schema: Any, key: str) -> list[str]:
  """Returns the names from a column to a text, or to a list of texts.

  Raises:
    UserError: there is no such column, or it holds other values.
  """
  path = arrow.path_of(schema, key)
  if path is None:
    raise _no_column(schema, "text", key)
  if not arrow.is_text(arrow.type_at(schema, path)):
    raise UserError(
        "The column of texts must hold texts or lists of texts;"
        f" {key!r} is {arrow.type_at(schema, path)}. Name another one, or a"
        " field in it, as `text`."
    )
  return path


def scalar_path(schema: Any, key: str) -> list[str]:
  """Returns the names from a column to a text, number or truth value.

  Raises:
    UserError: there is no such column, or it holds other values.
  """
  path = arrow.path_of(schema, key)
  if path is None:
    raise _no_column(schema, "keep", key)
  types = [schema.field(path[0]).type, arrow.type_at(schema, path)]
  inside = path[1:] and not arrow.arrow().types.is_struct(types[0])
  if inside or not arrow.is_scalar(types[1]):
    raise UserError(
        "Columns that are kept or filtered by must hold texts, numbers or"
        f" truth values; {key!r} is {types[0]}. Choose another one."
    )
  return path


def _no_column(
    schema: Any, argument: str, name: str, more: str = ""
) -> UserError:
  return UserError(
      f"The Parquet files must have the column {name!r} (`{argument}`); they"
      f" have {', '.join(schema.names)}. Name one of these.{more}"
  )
