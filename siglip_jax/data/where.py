"""Conditions that choose records by their columns.

A condition is text of a config, as in

  min(width, height) >= 200 and language in ("en", "de")

It is parsed, checked and computed over NumPy columns here; Python never runs
it. Its parts are `and`, `or`, `not`, comparisons, `in` and `not in` with a
tuple of literals, `+ - * /`, `min`, `max`, `abs`, `len` of a text, literals,
and names of columns. A column whose name is not a Python name is written as
`column("clip score")`; `a.b` is the column "a.b".

A comparison with a value that is absent (None or NaN, or a division by 0) is
false, whatever the comparison; `not` of it is true.
"""

import ast
from collections.abc import Mapping
import dataclasses

from jaxtyping import Bool
import numpy as np

from siglip_jax.data.tables import compute
from siglip_jax.data.tables import grammar
from siglip_jax.errors import UserError

_ROWS = 1 << 18  # computed together, which bounds the memory of temporaries


@dataclasses.dataclass(frozen=True)
class Where:
  """A condition that was parsed.

  Attributes:
    text: the condition.
    columns: the names of the columns that it reads, sorted.
    tree: the condition as Python's parser returns it.
  """

  text: str
  columns: tuple[str, ...]
  tree: ast.expr = dataclasses.field(repr=False, compare=False)

  def __reduce__(self):
    return compile, (self.text,)

  def select(self, columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " N"]:
    """Returns which rows the condition is true for.

    Args:
      columns: arrays of N numbers, truth values or texts for each name in
        `self.columns`. In arrays of objects, None is an absent value.

    Raises:
      UserError: a column is not there, or holds another kind of values than the
        condition needs.
    """
    absent = [name for name in self.columns if name not in columns]
    if absent:
      raise UserError(
          f"`where` must name columns of the data; got {absent[0]!r}. They"
          f" have {', '.join(sorted(columns)) or 'no columns'}."
      )
    arrays = {name: np.asarray(columns[name]) for name in self.columns}
    lengths = {len(array) for array in arrays.values()}
    assert len(lengths) == 1, lengths
    chosen = np.zeros(lengths.pop(), bool)
    for start in range(0, len(chosen), _ROWS):
      rows = slice(start, start + _ROWS)
      part = {name: array[rows] for name, array in arrays.items()}
      chosen[rows] = compute.truth(self.text, self.tree, part)
    return chosen


def compile(text: object) -> Where:  # pylint: disable=redefined-builtin
  """Returns a condition that was parsed and checked.

  Raises:
    UserError: the text is not a condition; the message names the place.
  """
  tree, columns = grammar.parse(text)
  return Where(str(text), columns, tree)
