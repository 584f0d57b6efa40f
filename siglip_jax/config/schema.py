"""Checks config sections against the signatures of constructors.

A section holds the keyword arguments of one constructor. For a class, these are
all its arguments. For a function, they are the arguments after its `*`; the run
passes the others.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
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
OPTIONAL = dict.fromkeys(
    "init watchdog profile early_stopping wandb".split(), Mapping
)


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
  known, required = keys(*constructors, passed=passed)
  check_keys(name, section, known, required if complete else ())


def keys(
    *constructors: Callable[..., Any], passed: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
  """Returns key -> type hint of a section, and the keys without a default.

  The arguments are those of `check`.
  """
  known, required = {}, []
  for constructor in constructors:
    plain = inspect.isclass(constructor) and not dataclasses.is_dataclass(
        constructor
    )
    hints = get_type_hints(constructor.__init__ if plain else constructor)
    for p in inspect.signature(constructor).parameters.values():
      ours = p.kind is p.KEYWORD_ONLY or isinstance(constructor, type)
      if ours and p.name not in passed:
        known[p.name] = hints.get(p.name, Any)
        if p.default is p.empty:
          required.append(p.name)
  return known, required


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
    if not fits(value, known[key]):
      raise UserError(
          f"{name}.{key} must be of type {described(known[key])}; got"
          f" {value!r}."
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


def suggest(word: Any, known: Iterable[str]) -> str:
  """Returns the rest of a message that says that `word` is unknown."""
  known = list(map(str, known))
  close = difflib.get_close_matches(str(word), known, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"known are {', '.join(known)}."


def fits(value: Any, hint: Any) -> bool:
  """Whether a value has a type; the items of containers are not checked."""
  accepted = kinds(hint)
  if Any in accepted:
    return True
  # bool is an int and str a Sequence; neither is ever intended.
  for narrow in (bool, str):
    if isinstance(value, narrow):
      return narrow in accepted
  if isinstance(value, int) and float in accepted:
    return True
  return isinstance(value, tuple(accepted))


def kinds(hint: Any) -> list[Any]:
  """Returns the classes that a type hint accepts, and `Any` as it is."""
  return [get_origin(h) or h for h in _alternatives(hint)]


def described(hint: Any) -> str:
  """Returns a type hint in words, for messages."""
  names = [getattr(k, "__name__", str(k)) for k in kinds(hint)]
  return " or ".join(n.replace("NoneType", "None") for n in names)


def _alternatives(hint: Any) -> tuple:
  union = isinstance(hint, types.UnionType) or get_origin(hint) is Union
  return get_args(hint) if union else (hint,)
