"""The computation of conditions on columns, over many rows together.

A value is a NumPy array with an element for each row, or a literal. Kinds of
values differ from text to text, so they are checked here, where the columns
are known.
"""

import ast
from collections.abc import Mapping
import functools
import operator
from typing import Any

import numpy as np

from siglip_jax.data.tables import grammar
from siglip_jax.errors import UserError

_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}


def truth(text: str, tree: ast.expr, columns: Mapping[str, np.ndarray]) -> Any:
  """Returns the truth of a condition, for each row or as one value.

  Args:
    text: the condition, for messages.
    tree: the condition as `grammar.parse` returns it.
    columns: arrays of N values for each column in the tree.

  Raises:
    UserError: a column holds another kind of values than the condition needs.
  """
  typed = {name: _typed(name, array) for name, array in columns.items()}
  with np.errstate(all="ignore"):
    return _Rows(grammar.one_line(text), typed).truth(tree)


def _typed(name: str, array: np.ndarray) -> np.ndarray:
  """Returns a column as numbers, truth values or texts; None stays in these."""
  if array.dtype.kind in "biufU":
    return array
  if array.dtype.kind == "S":
    return np.char.decode(array, "utf-8", "replace")
  if array.dtype.kind in "OT":
    values = array.astype(object)
    present = values[values != None]  # noqa: E711 (elementwise)
    kinds = set(map(type, present))
    if kinds <= {str}:
      return values
    if kinds <= {bool, np.bool_} and len(present) == len(values):
      return values.astype(bool)
    if all(issubclass(kind, int | float | np.number) for kind in kinds):
      whole = len(present) == len(values)
      return np.array(values.tolist(), None if whole else np.float64)
  raise UserError(
      "`where` reads columns of numbers, truth values or texts; column"
      f" {name!r} has {array.dtype} with other values. Leave it out."
  )


def _is_text(value: Any) -> bool:
  if isinstance(value, np.ndarray):
    return value.dtype.kind in "OU"
  return isinstance(value, str)


def _present(value: Any) -> Any:
  """Returns where a value is not absent."""
  if isinstance(value, np.ndarray) and value.dtype.kind == "O":
    return value != None  # noqa: E711 (elementwise)
  return np.True_ if isinstance(value, str) else value == value


def _absent(value: Any) -> bool:
  """Whether no row of a column has a value, so that it is of any kind."""
  return isinstance(value, np.ndarray) and not np.any(_present(value))


class _Rows:
  """The values of a condition's parts over some rows.

  Args:
    line: the condition, for messages.
    columns: its columns, as `_typed` returns them.
  """

  def __init__(self, line: str, columns: Mapping[str, np.ndarray]):
    self._line, self._columns = line, columns
    self._count = len(next(iter(columns.values())))

  def truth(self, node: ast.expr) -> Any:
    """Returns the truth of a node, for all rows or as one value."""
    match node:
      case ast.BoolOp(op=op, values=values):
        combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
        return functools.reduce(combine, map(self.truth, values))
      case ast.UnaryOp(op=ast.Not(), operand=operand):
        return np.logical_not(self.truth(operand))
      case ast.Compare(left=left, ops=ops, comparators=rest):
        truth, a = np.True_, left
        for op, b in zip(ops, rest, strict=True):
          truth, a = truth & self._compare(op, a, b), b
        return truth
    value = self._value(node)
    if isinstance(value, bool) or value.dtype.kind == "b":
      return np.asarray(value)
    if _absent(value):
      return np.False_
    raise self._wrong(node, "truth value", "Compare it, as in NAME == 1")

  def _value(self, node: ast.expr) -> Any:
    name = grammar.column(node)
    if name is not None:
      return self._columns[name]
    if isinstance(node, ast.Constant):
      return node.value
    return self._number(node)

  def _number(self, node: ast.expr) -> Any:
    """Returns a node as float64, with NaN for what is absent."""
    match node:
      case ast.UnaryOp(op=ast.USub(), operand=operand):
        return -self._number(operand)
      case ast.UnaryOp(operand=operand):
        return self._number(operand)
      case ast.BinOp(op=op, left=left, right=right):
        a, b = self._number(left), self._number(right)
        if isinstance(op, ast.Div):
          b = np.where(b == 0, np.nan, b)
        return _ARITHMETIC[type(op)](a, b)
      case ast.Call(func=ast.Name(id="len"), args=[text]):
        return self._length(text)
      case ast.Call(func=ast.Name(id=name), args=args) if (
          name in grammar.FUNCTIONS
      ):
        values = [self._number(arg) for arg in args]
        if name == "abs":
          return np.abs(values[0])
        return functools.reduce(
            np.minimum if name == "min" else np.maximum, values
        )
    value = self._value(node)
    if _is_text(value) and not _absent(value):
      raise self._wrong(node, "number", "It holds texts")
    return np.asarray(value, np.float64)

  def _length(self, node: ast.expr) -> Any:
    value = self._value(node)
    if isinstance(value, str):
      return np.float64(len(value))
    if not _is_text(value):
      if _absent(value):
        return np.full(self._count, np.nan)
      raise self._wrong(node, "text", "It holds numbers")
    lengths = (np.nan if text is None else len(text) for text in value.tolist())
    return np.fromiter(lengths, np.float64, len(value))

  def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:
    a = self._value(left)
    if isinstance(op, ast.In | ast.NotIn):
      choices = grammar.literals(right)
      assert choices
      self._same_kind(left, a, choices[0])
      inside = _is_in(a, choices) & _present(a)
      return inside if isinstance(op, ast.In) else ~inside & _present(a)
    b = self._value(right)
    self._same_kind(left, a, b)
    if _absent(a) or _absent(b):
      return np.False_
    both = np.broadcast_to(_present(a) & _present(b), self._count)
    if not _is_text(a) or isinstance(op, ast.Eq | ast.NotEq):
      return _COMPARE[type(op)](a, b) & both
    # Only texts have an order; None among them has none.
    truth = np.zeros(self._count, bool)
    a, b = (x[both] if isinstance(x, np.ndarray) else x for x in (a, b))
    truth[both] = _COMPARE[type(op)](a, b)
    return truth

  def _same_kind(self, node: ast.expr, a: Any, b: Any) -> None:
    if _is_text(a) != _is_text(b) and not _absent(a) and not _absent(b):
      holds = "texts" if _is_text(a) else "numbers"
      other = "text" if _is_text(b) else "number"
      raise self._wrong(node, other, f"It holds {holds}")

  def _wrong(self, node: ast.expr, kind: str, more: str) -> UserError:
    part = ast.get_source_segment(self._line, node) or ""
    return UserError(
        f"`where` needs a {kind} in {part!r} of {self._line[:300]!r}. {more}."
    )


def _is_in(value: Any, choices: Any) -> Any:
  if isinstance(value, np.ndarray) and value.dtype.kind == "O":
    inside = frozenset(choices).__contains__
    return np.fromiter(map(inside, value.tolist()), bool, len(value))
  if isinstance(value, str):
    return np.bool_(value in choices)
  return np.isin(value, choices)
