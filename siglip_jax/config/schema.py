"""Checks config sections against the signatures of constructors.

A section holds the keyword arguments of one constructor. For a class, these are
all its arguments. For a function, they are the arguments after its `*`; the run
passes the others.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import difflib
import inspect
import math
import types
from typing import Any
from typing import Union
from typing import get_args
from typing import get_origin
from typing import get_type_hints

from siglip_jax.errors import UserError

_NUMBERS = (
    "seed total_steps batch_size microbatch image_size text_len log_steps"
).split()
_SECTIONS = "data preprocess model loss optim mesh evals ckpt".split()
TOP_LEVEL = (
    dict.fromkeys(_NUMBERS, int)
    | dict.fromkeys(_SECTIONS, Mapping)
    | {"sharding": Sequence}
)
OPTIONAL = {"init": Mapping, "watchdog": Mapping, "profile": Mapping}


def check(
    name: str,
    section: Mapping[str, Any],
    *constructors: Callable[..., Any],
    passed: Iterable[str] = (),
    complete: bool = True,
) -> None:
  """Checks the keys of a section and the types of its values.

  Args:
    name: name of the section, for messages.
    section: the section as the config has it.
    *constructors: constructors that take the section's values; several may
      share a section.
    passed: keyword arguments that the run passes itself.
    complete: whether arguments without a default must be present.

  Raises:
    UserError: a key is unknown or missing, or a value has the wrong type.
  """
  known, required = {}, []
  for constructor in constructors:
    hints = get_type_hints(constructor)
    for p in inspect.signature(constructor).parameters.values():
      ours = p.kind is p.KEYWORD_ONLY or isinstance(constructor, type)
      if ours and p.name not in passed:
        known[p.name] = hints.get(p.name, Any)
        if complete and p.default is p.empty:
          required.append(p.name)
  check_keys(name, section, known, required)


def check_keys(
    name: str,
    section: Mapping[str, Any],
    known: Mapping[str, Any],
    required: Iterable[str] | None = None,
) -> None:
  """Checks the keys of a section and the types of its values.

  Args:
    name: name of the section, for messages.
    section: the section as the config has it.
    known: key -> type hint.
    required: keys that must be present; by default all known ones.

  Raises:
    UserError: a key is unknown or missing, or a value has the wrong type.
  """
  for key, value in section.items():
    if key not in known:
      raise UserError(f"{name} has no {key!r}; {suggest(key, known)}")
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"{name}.{key} must be a finite number; got {value}.")
    if not _fits(value, known[key]):
      raise UserError(
          f"{name}.{key} must be of type {_format(known[key])}; got {value!r}."
      )
  for key in known if required is None else required:
    if key not in section:
      raise UserError(f"{name}.{key} is missing; the config must set it.")


def defaults(constructor: Callable[..., Any]) -> dict[str, Any]:
  """Returns name -> default of a constructor's arguments that have one."""
  return {
      p.name: p.default
      for p in inspect.signature(constructor).parameters.values()
      if p.default is not p.empty
  }


def suggest(word: str, known: Iterable[str]) -> str:
  """Returns the rest of a message that says that `word` is unknown."""
  known = list(map(str, known))
  close = difflib.get_close_matches(word, known, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"known are {', '.join(known)}."


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value has a type; the items of containers are not checked."""
  kinds = [get_origin(h) or h for h in _alternatives(hint)]
  if Any in kinds:
    return True
  # bool is an int and str a Sequence; neither is ever intended.
  for narrow in (bool, str):
    if isinstance(value, narrow):
      return narrow in kinds
  if isinstance(value, int) and float in kinds:
    return True
  return isinstance(value, tuple(kinds))


def _alternatives(hint: Any) -> tuple:
  union = isinstance(hint, types.UnionType) or get_origin(hint) is Union
  return get_args(hint) if union else (hint,)


def _format(hint: Any) -> str:
  names = [
      getattr(get_origin(h) or h, "__name__", str(h))
      for h in _alternatives(hint)
  ]
  return " or ".join(n.replace("NoneType", "None") for n in names)
