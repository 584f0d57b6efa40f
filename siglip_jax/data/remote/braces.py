"""Patterns of names: braces for numbers and alternatives, stars for the rest.

Shells know them: {00000..01242} is each number from 0 to 1242 with five digits,
{train,test} is either word, * is any part of a name and ? is any letter.
"""

from collections.abc import Iterator
import itertools
import re

from siglip_jax.errors import UserError

MAX_NAMES = 1_000_000  # in all of a pattern
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def braces(pattern: str) -> list[str]:
  """Returns the names that a pattern stands for, in its own order.

  Args:
    pattern: a pattern; its stars stay as they are.

  Raises:
    UserError: a brace is not closed or is empty, or the names are over
      MAX_NAMES.
  """
  names = list(itertools.islice(_expanded(pattern, pattern), MAX_NAMES + 1))
  if len(names) > MAX_NAMES:
    raise UserError(
        f"A pattern may stand for {MAX_NAMES:,} names; {pattern:.200} stands"
        " for more. Check the numbers in its braces."
    )
  return names


def has_stars(name: str) -> bool:
  """Whether a name is a pattern of several names."""
  return any(sign in name for sign in "*?[")


def _expanded(pattern: str, whole: str) -> Iterator[str]:
  """Yields the names of a pattern; `whole` is what messages show."""
  begin = pattern.find("{")
  if begin < 0:
    if "}" in pattern:
      raise _bad(whole, "a } has no { before it")
    yield pattern
    return
  end = _closing(pattern, begin, whole)
  for choice in _choices(pattern[begin + 1 : end], whole):
    for rest in _expanded(pattern[end + 1 :], whole):
      yield pattern[:begin] + choice + rest


def _closing(pattern: str, begin: int, whole: str) -> int:
  """Returns the place of the brace that closes the one at `begin`."""
  depth = 0
  for place, sign in enumerate(pattern[begin:], begin):
    depth += (sign == "{") - (sign == "}")
    if not depth:
      return place
  raise _bad(whole, "a { is not closed")


def _choices(inside: str, whole: str) -> Iterator[str]:
  """Yields the alternatives within a pair of braces."""
  if numbers := _NUMBERS.fullmatch(inside):
    first, last = numbers.groups()
    if int(last) < int(first):
      raise _bad(whole, f"{{{inside}}} counts down")
    width = len(first) if first.startswith("0") else 0
    for number in range(int(first), int(last) + 1):
      yield f"{number:0{width}d}"
    return
  parts = _split(inside)
  if len(parts) < 2:
    raise _bad(whole, f"{{{inside}}} is neither {{first..last}} nor {{a,b}}")
  for part in parts:
    yield from _expanded(part, whole)


def _split(inside: str) -> list[str]:
  """Splits at the commas that lie in no inner pair of braces."""
  parts, depth = [""], 0
  for sign in inside:
    depth += (sign == "{") - (sign == "}")
    if sign == "," and not depth:
      parts.append("")
    else:
      parts[-1] += sign
  return parts


def _bad(whole: str, reason: str) -> UserError:
  return UserError(
      "Braces in names must be as {00000..01242} or {a,b};"
      f" in {whole!r:.200} {reason}. Correct the pattern."
  )
