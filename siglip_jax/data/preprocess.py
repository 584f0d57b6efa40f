"""Preprocessing strings in big_vision's syntax.

  decode|resize(224)|value_range(-1,1)
  lower|tokenize(max_len=64, model="c4_en", eos="sticky", pad_value=1)

Operations are separated by "|" and take literal arguments. Images stay uint8
on the host: value_range only tells the device which range to scale them to.
"""

import ast
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import difflib
import inspect
import math
import os
from typing import Any

import cv2
import numpy as np

from siglip_jax.data import ops
from siglip_jax.data.images import ImageError
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError

Record = dict[str, Any]
# Raised by operations on values or arguments that they do not take.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    cv2.error,
)
_AFTER_VALUE_RANGE = ("tokenize", *(op.__name__ for op in ops.ON_ANYTHING))


class Preprocess:
  """A parsed preprocessing string, called as pp(record, rng).

  Args:
    spec: the preprocessing string.
    tokenizer_path: tokenizer file to use instead of the one `tokenize` names.

  Attributes:
    spec: the preprocessing string.
    value_range: (low, high) of the images on the device, or None.
    tokenizer: the tokenizer that `tokenize` uses, or None.

  Raises:
    UserError: when an operation is unknown or does not take its arguments, or
      an image operation follows value_range. A call raises UserError when an
      operation cannot be applied, and ImageError when the image cannot be
      decoded.
  """

  def __init__(
      self,
      spec: str,
      *,
      tokenizer_path: str | os.PathLike | None = None,
  ):
    self.spec = spec
    self.value_range: tuple[float, float] | None = None
    self.tokenizer: Tokenizer | None = None
    self._ops: list[_Operation] = []
    calls = parse(spec)
    for i, (name, args, kwargs) in enumerate(calls):
      if self.value_range and name not in _AFTER_VALUE_RANGE:
        raise UserError(
            "value_range must be the last operation on images, which are"
            f" bytes until the device; got {name} after it in {spec!r}."
        )
      if name == "value_range":
        low, high = arguments(name, args, kwargs).values()
        if (
            not all(isinstance(x, int | float) for x in (low, high))
            or not low < high
        ):
          raise UserError(
              "value_range takes two numbers, the lower first; got"
              f" {low!r}, {high!r}."
          )
        self.value_range = (float(low), float(high))
      elif name == "tokenize":
        options = arguments(name, args, kwargs)
        model = options.pop("model")
        self.tokenizer = Tokenizer(tokenizer_path or model)
        self._ops.append(_encoding(self.tokenizer, options))
      elif name == "decode":
        self._ops.append(_decoding(calls[i:]))
      else:
        self._ops.append(_operation(name, args, kwargs))
    end = len(self._ops)
    numbers = [i for i, op in enumerate(self._ops) if op.random]
    tokens = [i for i, op in enumerate(self._ops) if op.name == "tokenize"]
    # Texts are tokenized many at a time, unless a random operation follows.
    late = tokens and not any(i > tokens[-1] for i in numbers)
    self._tokens = tokens[-1] if late else end
    self._fixed = min([*numbers, self._tokens])

  def __call__(self, record: Record, rng: np.random.Generator) -> Record:
    """Runs all operations except value_range; does not modify the record."""
    return self.finish(self.begin(record), rng)

  def begin(self, record: Record) -> Record:
    """Runs what precedes random operations and `tokenize`; deterministic."""
    record = dict(record)
    for op in self._ops[: self._fixed]:
      record = op(record, None)
    return record

  def finish(self, record: Record, rng: np.random.Generator) -> Record:
    """Runs the other operations on `begin`'s result without modifying it."""
    return self.tokenize([self.draw(record, rng)])[0]

  def draw(self, record: Record, rng: np.random.Generator) -> Record:
    """Runs the operations of `finish` but those that `tokenize` runs."""
    record = dict(record)
    for op in self._ops[self._fixed : self._tokens]:
      record = op(record, rng)
    return record

  def tokenize(self, records: Sequence[Record]) -> list[Record]:
    """Runs `tokenize` and what follows it on results of `draw`, all at once.

    It runs nothing if a random operation follows `tokenize`: `draw` did.
    """
    for op in self._ops[self._tokens :]:
      try:
        if op.name == "tokenize":
          records = _encode_all(records, *op.args, **op.kwargs)
          continue
      except _FAILURES:
        pass  # by the first record that fails alone
      records = [op(record, None) for record in records]
    return list(records)


@dataclasses.dataclass(frozen=True)
class _Operation:
  """An operation with its arguments; its errors name the operation."""

  name: str
  function: Callable[..., Record]
  args: list
  kwargs: dict
  random: bool = False

  def __call__(self, record: Record, rng: np.random.Generator | None) -> Record:
    generator = (rng,) if self.random else ()
    try:
      return self.function(record, *generator, *self.args, **self.kwargs)
    except (ImageError, UserError):
      raise
    except _FAILURES as e:
      fields = ", ".join(f"{k} ({type(v).__name__})" for k, v in record.items())
      raise UserError(
          f"Preprocessing: {self.name} cannot be applied,"
          f" {type(e).__name__}: {e}. The record has {fields}. Check its"
          " arguments and what is before it."
      ) from e


def parse(spec: str) -> list[tuple[str, list, dict]]:
  """Parses "a|b(1, c=2)" into [("a", [], {}), ("b", [1], {"c": 2})].

  Arguments must be literals.

  Raises:
    UserError: when the string is not operations separated by bars.
  """
  # A bar inside quotes does not separate, so parse the whole string as Python.
  try:
    node = ast.parse(spec.strip(), mode="eval").body
    nodes = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
      nodes.append(node.right)
      node = node.left
    nodes.append(node)
    return [_call(n) for n in reversed(nodes)]
  # Everything that Python's parser raises, including on deep nesting.
  except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as e:
    raise UserError(
        "A preprocessing string is operations with literal arguments between"
        f" bars, as in 'decode|resize(224)'; got {spec[:500]!r} ({e})."
    ) from None


def render(calls: Iterable[tuple[str, Iterable, Mapping]]) -> str:
  """Returns the string that `parse` would parse into `calls`."""
  words = []
  for name, args, kwargs in calls:
    texts = [repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()]
    words.append(f"{name}({', '.join(texts)})")
  return "|".join(words)


def arguments(name: str, args: Sequence, kwargs: Mapping) -> dict[str, Any]:
  """Returns all arguments of an operation by name, including defaults.

  Raises:
    UserError: when the operation is unknown or does not take these arguments.
  """
  signature = _signature(name)
  try:
    bound = signature.bind(*args, **kwargs)
  except TypeError as e:
    raise UserError(
        f"Preprocessing: expected {name}{signature}; {e}."
    ) from None
  bound.apply_defaults()
  return bound.arguments


def meaning(spec: str) -> str:
  """Returns a canonical form, which is equal for strings that do the same.

  It leaves out the tokenizer's path.

  Raises:
    UserError: when an operation is unknown or does not take its arguments.
  """
  calls = []
  for name, args, kwargs in parse(spec):
    named = arguments(name, args, kwargs)
    if name == "tokenize":
      del named["model"]
    calls.append((name, (), named))
  return render(calls)


def tokenize_options(spec: str) -> dict[str, Any]:
  """Returns all arguments of `spec`'s last operation, which must be tokenize.

  Raises:
    UserError: when it is another operation or does not take its arguments.
  """
  name, args, kwargs = parse(spec)[-1]
  if name != "tokenize":
    raise UserError(f"Texts must end in tokenize(...); got {spec!r}.")
  return arguments(name, args, kwargs)


def _call(node: ast.expr) -> tuple[str, list, dict]:
  if isinstance(node, ast.Name):
    return node.id, [], {}
  if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
    raise ValueError(f"{ast.unparse(node)!r} is not an operation")
  if any(k.arg is None for k in node.keywords):
    raise ValueError("** is not allowed")
  args = [ast.literal_eval(a) for a in node.args]
  kwargs = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
  if len(kwargs) < len(node.keywords):
    raise ValueError(f"{ast.unparse(node)!r} repeats an argument")
  return node.func.id, args, kwargs


def _encoding(tokenizer: Tokenizer, options: dict) -> _Operation:
  max_len, eos = options["max_len"], options["eos"]
  if eos not in ("sticky", "yes", "none"):
    raise UserError(f"eos must be sticky, yes or none; got {eos!r}.")
  if options["space"] not in ("plain", "marked"):
    raise UserError(f"space must be plain or marked; got {options['space']!r}.")
  pad = options["pad_value"]
  if not isinstance(pad, int) or not 0 <= pad < tokenizer.vocab_size:
    raise UserError(
        "pad_value must be an id of the tokenizer, from 0 to"
        f" {tokenizer.vocab_size - 1}; got {pad!r}."
    )
  if not isinstance(max_len, int) or max_len < 1:
    raise UserError(f"max_len must be a positive integer; got {max_len!r}.")
  return _Operation("tokenize", _encode, [tokenizer], options)


def _encode(record, tokenizer, **options):
  text = ops.text_of(record, "tokenize")
  return record | {"text": tokenizer.encode(text, **options)}


def _encode_all(records, tokenizer, **options):
  texts = [ops.text_of(record, "tokenize") for record in records]
  ids = tokenizer.encode_all(texts, **options)
  return [r | {"text": row} for r, row in zip(records, ids, strict=True)]


def _decoding(calls: Sequence[tuple[str, list, dict]]) -> _Operation:
  """Returns `decode`, the first of the calls, as those that follow need it."""
  names = [name for name, _, _ in calls]
  options, *later = (arguments(*call) for call in calls)
  later = list(zip(names[1:], later, strict=True))
  options["near"] = _near_whole(options["near"], later)
  pillow = bool(later) and ops.takes_pillow(*later[0])
  function = ops.decode_to_pillow if pillow else ops.decode
  return _Operation("decode", function, [], options)


def _near_whole(
    near: Any, later: Iterable[tuple[str, Mapping[str, Any]]]
) -> Any:
  """Returns the side that an image needs for a random part to have `near`.

  Args:
    near: the side that is enough for what follows, or None.
    later: the operations that follow, with their arguments. One that resizes
      before the part is taken decides alone.
  """
  for name, options in later:
    if name in ("resize", "resize_small"):
      return near
    if name == "inception_crop":
      percent = options["area_min"]
      # Arguments of other types are for the operations to refuse.
      if isinstance(near, int) and isinstance(percent, int | float):
        side = math.sqrt(min(percent, 100) / 100) if percent > 0 else 0
        return math.ceil(near / side) if side else None
      return near
  return near


def _operation(name: str, args: list, kwargs: dict) -> _Operation:
  arguments(name, args, kwargs)
  return _Operation(name, ops.OPS[name], args, kwargs, ops.is_random(name))


def _signature(name: str) -> inspect.Signature:
  """Returns an operation's signature without the record and rng."""
  if name in _SIGNATURES:
    return inspect.signature(_SIGNATURES[name])
  if name not in ops.OPS:
    known = [*ops.OPS, *_SIGNATURES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {sorted(known)}."
    raise UserError(f"Unknown preprocessing operation {name!r}; {hint}")
  parameters = list(inspect.signature(ops.OPS[name]).parameters.values())
  return inspect.Signature(parameters[2 if ops.is_random(name) else 1 :])


def _value_range(low, high):
  """Has the signature of value_range."""


def _tokenize(max_len, model, eos="sticky", pad_value=1, space="plain"):
  """Has the signature of tokenize."""


_SIGNATURES = {"value_range": _value_range, "tokenize": _tokenize}
