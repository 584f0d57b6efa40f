"""Nested dicts of parameters, and rules over parameter names."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import difflib
import re
from typing import Any

from siglip_jax.errors import UserError


def flatten(params: Mapping, prefix: str = "") -> dict[str, Any]:
  """Flattens {"img": {"cls": x}} to {"img/cls": x}, sorted by name."""
  flat = {}
  for key in sorted(params):
    value, name = params[key], f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{name}/")
    else:
      flat[name] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
  """Inverts `flatten`."""
  params: dict = {}
  for name, value in flat.items():
    *path, leaf = name.split("/")
    node = params
    for key in path:
      node = node.setdefault(key, {})
    node[leaf] = value
  return params


def select(params: Mapping, names: Iterable[str]) -> dict:
  """Returns the part of the tree with these names."""
  flat = flatten(params)
  return unflatten({n: flat[n] for n in sorted(names)})


def merge(a: Mapping, b: Mapping) -> dict:
  """Returns the union of two trees without common names."""
  a, b = flatten(a), flatten(b)
  assert not a.keys() & b.keys(), f"in both: {sorted(a.keys() & b.keys())}"
  return unflatten(dict(sorted((a | b).items())))


def assign(
    rules: Sequence[Sequence[Any]], names: Iterable[str], *, what: str
) -> dict[str, Any]:
  """Maps each name to the value of the first rule that matches it fully.

  Args:
    rules: (regex, value) in order of precedence, most specific first.
    names: parameter names such as "img/embedding/kernel".
    what: name of the config field that holds the rules, for messages.

  Raises:
    UserError: a name matches no rule, or a rule decides no name.
  """
  try:
    compiled = [(re.compile(regex), value) for regex, value in rules]
  except re.error as e:
    raise UserError(
        f"{what}: {e.pattern!r} is not a regular expression: {e}."
    ) from None
  names = list(names)
  assigned, used = {}, set()
  for name in names:
    for i, (regex, value) in enumerate(compiled):
      if regex.fullmatch(name):
        assigned[name] = value
        used.add(i)
        break
    else:
      raise UserError(
          f"{what}: every parameter needs a rule, and {name!r} matches none."
          ' End the list with a rule for ".*".'
      )
  for i, (regex, _) in enumerate(compiled):
    if i not in used:
      shadowed = any(regex.fullmatch(n) for n in names)
      reason = (
          "earlier rules took all it matches. Move it up or remove it."
          if shadowed
          else _why_unmatched(regex.pattern, names)
      )
      raise UserError(
          f"{what}: every rule must decide a parameter, and {regex.pattern!r}"
          f" decides none: {reason}"
      )
  return assigned


def _why_unmatched(pattern: str, names: Sequence[str]) -> str:
  """Returns why a rule matches none of the names, and names close to it."""
  stacked = any("encoderblock/" in n for n in names)
  unrolled = any("encoderblock_" in n for n in names)
  if stacked and not unrolled and "encoderblock_" in pattern:
    reason = (
        "it matches none, because config.model.scan=True stacks all blocks of a"
        " tower into one array, which a rule takes as a whole. Set it to False"
        " to tell blocks apart."
    )
  elif unrolled and not stacked and "encoderblock/" in pattern:
    reason = (
        "it matches none, because config.model.scan=False keeps each block by"
        " itself. Write encoderblock_[0-9]+ for all of them."
    )
  else:
    reason = "it matches none. Fix or remove it."
  examples = ", ".join(map(repr, _like(pattern, names)))
  return f"{reason} Names look like {examples}." if names else reason


def _like(pattern: str, names: Sequence[str]) -> list[str]:
  """Returns three names: the closest to a pattern, or one of each part."""
  letters = re.sub(r"[^\w/]+", "", pattern)
  close = difflib.get_close_matches(letters, names, n=3, cutoff=0.5)
  if close:
    return close
  parts = {n.partition("/")[0]: n for n in reversed(names)}
  return sorted(parts.values(), key=lambda n: ("/" not in n, n))[:3]
