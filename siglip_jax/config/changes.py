"""The fields in which two configs differ, one line each."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import json
from typing import Any

_UNSET = "unset"


@dataclasses.dataclass(frozen=True)
class Change:
  """A field of a config, and its values before and after.

  Printed, it reads "optim.lr = 0.01, was 0.001".
  """

  field: str
  before: str
  after: str

  def __str__(self) -> str:
    return f"{self.field} = {self.after}, was {self.before}"


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[Change]:
  """Returns the fields that differ, in the order of `after`.

  Tuples equal lists, as in a config that was read from JSON.

  Args:
    before: nested dict of the earlier config.
    after: nested dict of the later config.
  """
  old, new = dict(_leaves(before)), dict(_leaves(after))
  return [
      Change(name, old.get(name, _UNSET), new.get(name, _UNSET))
      for name in [*new, *(n for n in old if n not in new)]
      if old.get(name, _UNSET) != new.get(name, _UNSET)
  ]


def _leaves(
    section: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str]]:
  for key, value in section.items():
    if isinstance(value, Mapping) and value:
      yield from _leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", _written(value)


def _written(value: Any) -> str:
  """Returns a value as a literal; values that JSON holds alike are equal."""
  return repr(json.loads(json.dumps(value, default=str)))
