"""The records of a source that `where`, `only` and `without` choose."""

from typing import Any

from jaxtyping import Bool
import numpy as np

from siglip_jax.data import opening
from siglip_jax.data import where as where_lib
from siglip_jax.data.tables import filters
from siglip_jax.errors import UserError

UID = "uid"  # DataComp's name of the column


def chosen(
    source: Any,
    *,
    where: str | None = None,
    only: str | None = None,
    without: str | None = None,
    uid: str | None = None,
) -> Bool[np.ndarray, " N"]:
  """Returns which records of a source are chosen.

  Args:
    source: a source with `columns(name)`, whose arrays have N values.
    where: a condition on columns, such as "min(width, height) >= 200".
    only: a file of keys, as of `filters.load`; records with others are left
      out.
    without: a list of keys of records that are left out.
    uid: the column with the keys; by default the number of the record, for a
      list of numbers that was made from these data, and otherwise UID.

  Raises:
    UserError: a column is missing or of another type, a list cannot be read, or
      no record is left.
  """
  parts = []
  if where is not None:
    condition = where_lib.compile(where)
    columns = {name: source.columns(name) for name in condition.columns}
    parts.append(condition.select(columns))
  for path, listed in ((only, True), (without, False)):
    if path is not None:
      keys = filters.load(path)
      column = _column(source, keys, uid)
      parts.append(keys.isin(column) == listed)
  result = np.logical_and.reduce(parts)
  conditions = dict(where=where, only=only, without=without)
  words = ", ".join(f"{k}={v!r}" for k, v in conditions.items() if v)
  if not result.any():
    raise UserError(
        f"At least one of {len(result):,} records must pass {words}; none does."
        " Check the condition, and the column of the keys."
    )
  opening.say(f"{result.sum():,} of {len(result):,} records pass {words}")
  return result


def _column(source: Any, keys: filters.Keys, uid: str | None) -> np.ndarray:
  """Returns the column that a list's keys are of."""
  if keys.digest is None or uid is not None:
    if not hasattr(source, "columns"):
      raise UserError(
          f"{keys.path} must list numbers of records: these data have no"
          " columns of keys. `python -m siglip_jax.data.lists` without --uid"
          " makes such a list."
      )
    return source.columns(uid or UID)
  if keys.digest != (digest := source.digest()):
    raise UserError(
        f"{keys.path} lists rows of the data with digest {keys.digest}; these"
        f" have {digest}. Make it again from these data, read as here (`split`"
        " counts), or list keys that all data have."
    )
  return np.arange(len(source))
