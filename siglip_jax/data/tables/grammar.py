"""The grammar of conditions on columns: what a text may hold, and the errors.

`siglip_jax.data.where` describes the language. Texts come from users and
websites, so nothing here depends on their being reasonable: length and depth
are bounded, and no part is ever run.
"""

import ast
import warnings

from siglip_jax.errors import UserError

MAX_LENGTH = 4000  # characters
MAX_DEPTH = 50  # operations inside each other
COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
# Function -> fewest and most arguments.
FUNCTIONS = {
    "min": (2, MAX_DEPTH),
    "max": (2, MAX_DEPTH),
    "abs": (1, 1),
    "len": (1, 1),
}
_EXAMPLE = 'min(width, height) >= 200 and language in ("en", "de")'


def parse(text: object) -> tuple[ast.expr, tuple[str, ...]]:
  """Returns the tree of a condition, and the names of its columns, sorted.

  Raises:
    UserError: the text is not a condition; the message names the place.
  """
  if not isinstance(text, str) or len(text) > MAX_LENGTH:
    got = type(text).__name__
    if isinstance(text, str):
      got = f"{len(text)} characters; write a list of keys for `only` instead"
    raise UserError(
        f"`where` must be a text of at most {MAX_LENGTH} characters, as"
        f" {_EXAMPLE!r}; got {got}."
    )
  line = one_line(text)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # on escapes in texts, as "\\d"
      tree = ast.parse(line, mode="eval").body
  except SyntaxError as e:
    raise _error(line, e.msg, (e.offset or 1) - 1) from None
  except (ValueError, RecursionError, MemoryError) as e:
    raise _error(line, str(e) or "it is too deep", 0) from None
  checker = _Checker(line)
  checker.expect(tree, "truth", 0)
  if not checker.columns:
    raise _error(line, "it names no column", 0)
  return tree, tuple(sorted(checker.columns))


def one_line(text: str) -> str:
  """Returns a condition in one line, to which the places in its tree refer."""
  return text.strip().replace("\n", " ").replace("\r", " ")


def column(node: ast.AST) -> str | None:
  """Returns the name of the column that a node stands for, or None."""
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  if isinstance(node, ast.Name):
    return ".".join([node.id, *reversed(parts)])
  if not isinstance(node, ast.Call) or parts or node.keywords:
    return None
  name = node.args[0] if len(node.args) == 1 else None
  if isinstance(node.func, ast.Name) and node.func.id == "column":
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
      return name.value
  return None


def literals(node: ast.expr) -> list[str | float] | None:
  """Returns the texts and numbers of a tuple; None if it has anything else."""
  if not isinstance(node, ast.Tuple | ast.List) or not node.elts:
    return None
  values = []
  for element in node.elts:
    minus = isinstance(element, ast.UnaryOp) and isinstance(
        element.op, ast.USub
    )
    literal = element.operand if minus else element  # pyright: ignore
    if not isinstance(literal, ast.Constant) or not _literal(literal.value):
      return None
    if minus and isinstance(literal.value, str):
      return None
    values.append(-literal.value if minus else literal.value)  # pyright: ignore
  return values


def _literal(value: object) -> str | None:
  """Returns the kind of a literal, or None if it is not allowed."""
  if isinstance(value, bool):
    return "truth"
  if isinstance(value, str):
    return "text"
  number = isinstance(value, int | float) and abs(value) < 2**64
  return "number" if number else None


def _error(line: str, reason: str, start: int) -> UserError:
  return UserError(
      f"`where` must be a condition on columns, as {_EXAMPLE!r}; got"
      f" {line[:300]!r}: {reason}, at character {start + 1}."
  )


def _column(node: ast.AST) -> str | None:
  """Returns the name of the column that a node stands for, or None."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    head = _column(node.value) if not isinstance(node.value, ast.Call) else None
    return None if head is None else f"{head}.{node.attr}"
  if isinstance(node, ast.Call) and _column(node.func) == "column":
    name = node.args[0] if len(node.args) == 1 and not node.keywords else None
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
      return name.value
  return None


class _Checker:
  """A check of parsed text against what a condition may hold."""

  def __init__(self, line: str):
    self._line = line
    self.columns: set[str] = set()

  def expect(self, node: ast.expr, kind: str, depth: int) -> None:
    """Raises UserError unless a node is of a kind, or may be."""
    actual = self.kind(node, depth)
    if actual not in (kind, "column"):
      hint = " Compare it with something" if kind == "truth" else ""
      raise self.error(node, f"a {kind} is needed, this is a {actual}.{hint}")

  def error(self, node: ast.expr, reason: str) -> UserError:
    """Returns the error about a node."""
    part = ast.get_source_segment(self._line, node) or ""
    start = len(self._line.encode()[: node.col_offset].decode())
    return _error(self._line, f"`{part[:60]}`: {reason.rstrip('.')}", start)

  def kind(self, node: ast.expr, depth: int) -> str:
    """Returns "truth", "number", "text", or "column", which may be any."""
    if depth > MAX_DEPTH:
      raise self.error(node, f"it is more than {MAX_DEPTH} operations deep")
    name = column(node)
    if name is not None:
      self.columns.add(name)
      return "column"
    match node:
      case ast.BoolOp(values=values):
        for value in values:
          self.expect(value, "truth", depth + 1)
        return "truth"
      case ast.UnaryOp(op=ast.Not(), operand=operand):
        self.expect(operand, "truth", depth + 1)
        return "truth"
      case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
        self.expect(operand, "number", depth + 1)
        return "number"
      case ast.BinOp(op=op, left=a, right=b) if isinstance(op, ARITHMETIC):
        self.expect(a, "number", depth + 1)
        self.expect(b, "number", depth + 1)
        return "number"
      case ast.Compare():
        return self._comparison(node, depth)
      case ast.Call():
        return self._call(node, depth)
      case ast.Constant(value=value) if kind := _literal(value):
        return kind
    raise self.error(
        node,
        "allowed are and, or, not, comparisons, in, + - * /, min, max, abs,"
        ' len, columns, texts and numbers below 2**64, and column("NAME")',
    )

  def _comparison(self, node: ast.Compare, depth: int) -> str:
    sides = [node.left, *node.comparators]
    for op, a, b in zip(node.ops, sides[:-1], sides[1:], strict=True):
      if isinstance(op, ast.In | ast.NotIn):
        kinds = {self.kind(a, depth + 1), self._choices(b)} - {"column"}
        if b is not sides[-1]:
          raise self.error(b, "a tuple of literals must come last")
      elif isinstance(op, COMPARISONS):
        kinds = {self.kind(x, depth + 1) for x in (a, b)} - {"column"}
      else:
        raise self.error(node, "allowed are == != < <= > >= and in")
      if "truth" in kinds:
        reason = "a truth value is not compared: write NAME or not NAME"
        raise self.error(node, reason)
      if len(kinds) > 1:
        raise self.error(node, "a number is never equal to a text")
    return "truth"

  def _choices(self, node: ast.expr) -> str:
    """Returns the kind of the literals after `in`."""
    kinds = {_literal(value) for value in literals(node) or ()}
    if len(kinds) != 1:
      reason = "`in` needs a tuple of literals, as ('en', 'de') or ('en',)"
      raise self.error(node, reason)
    return str(kinds.pop())

  def _call(self, node: ast.Call, depth: int) -> str:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS or node.keywords:
      raise self.error(node, 'allowed are min, max, abs, len, column("NAME")')
    fewest, most = FUNCTIONS[name]
    if not fewest <= len(node.args) <= most:
      several = "one argument" if most == 1 else f"{fewest} or more arguments"
      raise self.error(node, f"{name} takes {several}")
    kind = "text" if name == "len" else "number"
    for argument in node.args:
      self.expect(argument, kind, depth + 1)
    return "number"
