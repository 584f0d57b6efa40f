"""Configs: arguments, schema and checks. Config files need only `parse_arg`."""

import ast
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import ml_collections

from siglip_jax.config import schema
from siglip_jax.errors import UserError

# The start of an argument. An unknown name is one, too, so that a typo is an
# error and not the end of the value before it.
_START = re.compile(r"\s*([\w.-]+)=")
# A quoted value: it ends in the quote that a comma or the end of all follows.
_QUOTED = re.compile(r"([\"'])(.*?)\1\s*(?=,|$)", re.DOTALL)


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """Parses the part of --config after the colon: "a=1,b=text,flag".

  A bare name means True. A string, tuple or list may hold commas, as in
  "path=a,b/c,steps=9": a part between commas continues the value before it,
  unless it begins with "name=" or is the name of an argument. A value in quotes
  may hold anything: path="a,steps=b".

  Args:
    arg: the part after the colon, or None if there is none.
    **defaults: all names that it may set. Each value must have the type of its
      default; an integer may stand for a float.

  Raises:
    UserError: a name is unknown, or a value has another type.
  """
  values = dict(defaults)
  for key, text in _arguments(arg or "", defaults):
    values[key] = _parse_value(key, text, defaults[key])
  return ml_collections.ConfigDict(values)


def one_of(name: str, value: str, known: Mapping[str, Any]) -> Any:
  """Returns what an argument's value stands for.

  Args:
    name: name of the argument, for messages.
    value: the value.
    known: value -> what it stands for.

  Raises:
    UserError: the value is none of the known ones.
  """
  if value not in known:
    raise UserError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
  return known[value]


def at_most_one(arg: ml_collections.ConfigDict, *names: str) -> None:
  """Checks that not more than one of some arguments is set.

  Raises:
    UserError: several are not empty.
  """
  given = [f"{name}={arg[name]}" for name in names if arg[name]]
  if len(given) > 1:
    raise UserError(
        f"At most one of {', '.join(f'{n}=' for n in names)} may be given; got"
        f" {' and '.join(given)}."
    )


@dataclasses.dataclass
class _Argument:
  """A named argument, and where in the whole text its value lies."""

  key: str
  begin: int
  end: int
  open: bool = False  # whether a part without a name continues the value


def _arguments(arg: str, defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns the arguments and the texts of their values, in order."""
  arguments: list[_Argument] = []
  position = 0
  while position < len(arg):
    start = _START.match(arg, position)
    quoted = _QUOTED.match(arg, start.end()) if start else None
    comma = arg.find(",", quoted.end() if quoted else position)
    end = comma if comma >= 0 else len(arg)
    bare = arg[position:end].strip()
    if start:
      key = start[1]
      if key not in defaults:
        raise _unknown(key, defaults, arguments)
      begin, stop = quoted.span(2) if quoted else (start.end(), end)
      may_go_on = isinstance(defaults[key], str | tuple | list) and not quoted
      arguments.append(_Argument(key, begin, stop, open=may_go_on))
    elif bare in defaults:
      arguments.append(_Argument(bare, end, end))
    elif bare and arguments and arguments[-1].open:
      arguments[-1].end = end
    elif bare:
      raise _unknown(bare, defaults, arguments)
    position = end + 1
  return [(a.key, arg[a.begin : a.end]) for a in arguments]


def _unknown(
    word: str, defaults: Mapping[str, Any], before: Sequence[_Argument]
) -> UserError:
  rest = schema.suggest(word, defaults)
  if before and before[-1].open:
    key = before[-1].key
    rest += f' If it belongs to {key}, put its value in quotes: {key}="...".'
  return UserError(f"Unknown config argument {word!r}; {rest}")


def _parse_value(key: str, text: str, default: Any) -> Any:
  if isinstance(default, str):
    return text
  try:
    value = ast.literal_eval(text) if text else True
  except (ValueError, SyntaxError):
    value = text
  if isinstance(default, float) and isinstance(value, int):
    value = float(value)
  if type(value) is not type(default):
    raise UserError(
        f"Config argument {key} must be of type {type(default).__name__}, such"
        f" as {default!r}; got {text!r}."
    )
  return value
