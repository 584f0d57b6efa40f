"""Values of single settings, as a command line writes them: --config.KEY=TEXT.

A text is read by the type of its setting. Strings are taken as they are. All
other values are Python literals, such as lists and dicts. No code is run.
"""

import ast
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import math
import re
from typing import Any
import warnings

import ml_collections

from siglip_jax.config import schema
from siglip_jax.config import sections
from siglip_jax.errors import UserError

_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_EXAMPLES = {
    Mapping: """'{"a": 1}'""",
    Sequence: """'[("img/.*", None), (".*", {"decay": "cosine"})]'""",
    tuple: """'(None, 512)'""",
}


def apply(
    config: ml_collections.ConfigDict,
    overrides: Iterable[tuple[str, str | bool]],
) -> None:
  """Sets values of a config, also of settings that its file leaves out.

  Args:
    config: the config; a section that it lacks is added if it is a known one.
    overrides: pairs (setting, text) in order, such as ("optim.lr", "0.1"). True
      and False stand for --config.KEY without a value and --noconfig.KEY.

  Raises:
    UserError: there is no such setting, or the text is not of its type.
  """
  done: list[str] = []
  with config.unlocked():
    for setting, text in overrides:
      for earlier in done:
        if re.match(rf"{re.escape(setting)}[.\[]", earlier):
          raise UserError(
              f"--config.{setting} would replace --config.{earlier}, which"
              " comes before it: give it first."
          )
      _set(config, setting, text)
      done.append(setting)


def _set(
    config: ml_collections.ConfigDict, setting: str, text: str | bool
) -> None:
  *outer, key = _parts(setting)
  holder: Any = config
  for depth, name in enumerate(outer):
    hint = _hint(config, outer[:depth], holder, name, setting)
    if _missing(holder, name) or holder[name] is None:
      if Mapping not in schema.kinds(hint):
        raise UserError(
            f"--config.{setting}: {name!r} is not a section of the config."
        )
      holder[name] = ml_collections.ConfigDict()
    holder = holder[name]
  new_eval = outer == ["evals"] and _missing(holder, key)
  hint = Mapping if new_eval else _hint(config, outer, holder, key, setting)
  value = _read(setting, text, hint)
  try:
    if isinstance(holder, ml_collections.ConfigDict):
      # A number in the file may stand where None or a list is as good.
      with holder.ignore_type():
        holder[str(key)] = value
    else:
      holder[key] = value
  except (TypeError, ValueError, KeyError, AttributeError) as e:
    raise UserError(
        f"--config.{setting} cannot be set to {text!r}: {e}."
    ) from None


def _parts(setting: str) -> list[str | int]:
  """Splits "a.b[0].c" into ["a", "b", 0, "c"]."""
  parts: list[str | int] = []
  for word in setting.split("."):
    name, *indices = re.split(r"\[(-?\d+)\]", word)
    parts += [name, *(int(i) for i in indices[::2])]
  return parts


def _missing(holder: Any, key: str | int) -> bool:
  if isinstance(key, int):
    sequence = isinstance(holder, list | tuple)
    return not sequence or not -len(holder) <= key < len(holder)
  return not hasattr(holder, "keys") or key not in holder


def _hint(
    config: ml_collections.ConfigDict,
    path: Sequence[str | int],
    holder: Any,
    key: str | int,
    setting: str,
) -> Any:
  """Returns the type that the value under `key` must have.

  Raises:
    UserError: the config has no such key, and cannot have it.
  """
  names = [name for name in path if isinstance(name, str)]
  in_list = len(names) < len(path)
  known = {} if in_list else sections.keys(config, *names)[0]
  if key in known:
    return known[str(key)]
  if not _missing(holder, key):
    value = holder[key]
    if hasattr(value, "keys"):
      return Mapping
    return Any if value is None else type(value)
  present = holder.keys() if hasattr(holder, "keys") else ()
  candidates = dict.fromkeys([*known, *present])
  rest = f"; {schema.suggest(key, candidates)}" if candidates else "."
  raise UserError(f"--config.{setting}: the config sets no {key!r}{rest}")


def _read(setting: str, text: str | bool, hint: Any) -> Any:
  """Returns the value that a text stands for, of the type `hint`."""
  kinds = schema.kinds(hint)
  if isinstance(text, bool):
    if bool in kinds or Any in kinds:
      return text
    raise UserError(
        f"--config.{setting} needs a value of type {schema.described(hint)}."
    )
  if set(kinds) - {type(None)} == {str}:
    return None if text == "None" and type(None) in kinds else text
  if float in kinds and text.strip().lower().lstrip("+-") in ("nan", "inf"):
    raise UserError(
        f"--config.{setting} must be a finite number; got {text!r}."
    )
  if bool in kinds and text.lower() in _BOOLS:
    return _BOOLS[text.lower()]
  example = next((x for k, x in _EXAMPLES.items() if k in kinds), "")
  rule = (
      f"--config.{setting} must be of type {schema.described(hint)}"
      + (f", as a Python literal such as {example}" if example else "")
      + f"; got {text!r}."
  )
  try:
    value = _literal(text)
  # Everything that Python's parser raises, including on deep nesting.
  except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
    if str not in kinds and Any not in kinds:
      raise UserError(rule) from None
    value = text
  if type(value) is int and float in kinds and int not in kinds:
    value = _float(value)
  if not schema.fits(value, hint) or not _is_plain(value):
    raise UserError(rule)
  return value


def _literal(text: str) -> Any:
  with warnings.catch_warnings():
    # Python warns of "\d", which regular expressions hold.
    warnings.simplefilter("ignore")
    tree = ast.parse(text.strip(), mode="eval")
  return ast.literal_eval(_Dicts().visit(tree))


class _Dicts(ast.NodeTransformer):
  """Turns dict(a=1), as config files write it, into {"a": 1}."""

  def visit_Call(self, node: ast.Call) -> ast.AST:
    """Returns the dict for a call of `dict` with different keywords alone."""
    self.generic_visit(node)
    names = [k.arg for k in node.keywords]
    is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
    if not is_dict or node.args or None in names:
      return node
    if len(set(names)) < len(names):
      return node
    return ast.Dict(
        keys=[ast.Constant(name) for name in names],
        values=[k.value for k in node.keywords],
    )


def _float(value: int) -> float:
  try:
    return float(value)
  except OverflowError:
    return math.inf  # which is refused as such


def _is_plain(value: Any) -> bool:
  """Whether config.json can hold a value."""
  if isinstance(value, list | tuple):
    return all(map(_is_plain, value))
  if isinstance(value, dict):
    return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
  if isinstance(value, float):
    return math.isfinite(value)
  return value is None or isinstance(value, bool | int | str)
