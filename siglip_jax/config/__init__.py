"""Configs: arguments, schema and checks. Config files need only `parse_arg`."""

import ast
from typing import Any

import ml_collections

from siglip_jax.config import schema
from siglip_jax.errors import UserError


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """Parses the part of --config after the colon: "a=1,b=text,flag".

  A bare name means True.

  Args:
    arg: the part after the colon, or None if there is none.
    **defaults: all names that it may set. Each value must have the type of its
      default; an integer may stand for a float.

  Raises:
    UserError: a name is unknown, or a value has another type.
  """
  values = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    key, _, text = item.partition("=")
    if key not in defaults:
      raise UserError(
          f"Unknown config argument {key!r}; {schema.suggest(key, defaults)}"
      )
    values[key] = _parse_value(key, text, defaults[key])
  return ml_collections.ConfigDict(values)


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
