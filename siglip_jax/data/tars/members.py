"""The parts of a sample as values: texts, fields of JSON, labels.

A text's key in a config is a member's suffix, as "txt"; "json:caption" is a
field of a JSON member, and "txt:lines" is a member with a text a line.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from siglip_jax.data.images import ImageError
from siglip_jax.data.tars import columns
from siglip_jax.errors import UserError

LABEL = "cls"  # suffix of a class number


@dataclasses.dataclass(frozen=True)
class Key:
  """A key of a config and where its value is.

  Attributes:
    name: the key.
    suffix: suffix of the member.
    field: field of a JSON member; None of others.
    lines: whether each line is a text.
  """

  name: str
  suffix: str
  field: str | None = None
  lines: bool = False

  @classmethod
  def of(cls, name: str) -> "Key":
    """Returns what a key means.

    Raises:
      UserError: it is not a key.
    """
    suffix, colon, rest = name.partition(":")
    is_json = suffix.split(".")[-1] == "json"
    if is_json and rest:
      return cls(name, suffix, field=rest)
    if suffix and not is_json and not colon:
      return cls(name, suffix)
    if suffix and not is_json and rest == "lines":
      return cls(name, suffix, lines=True)
    raise UserError(
        "A text of a tar must be a member's suffix, as 'txt', or"
        " 'json:caption' for a field of a JSON member, or 'txt:lines' for a"
        f" text a line; got {name!r}."
    )

  def value(self, parts: Mapping[str, bytes]) -> Any:
    """Returns the key's value; None if the sample does not have it.

    Args:
      parts: suffix -> content.

    Raises:
      ImageError: the member is not UTF-8, or not a JSON object.
    """
    content = parts.get(self.suffix)
    if content is None:
      return None
    if self.field is not None:
      return columns.field(_json(content, self.suffix), self.field)
    text = _text(content, self.suffix)
    if self.lines:
      return [line for line in map(str.strip, text.splitlines()) if line]
    return text


def label(parts: Mapping[str, bytes]) -> int | None:
  """Returns the number of a sample's class; None if it has none.

  Raises:
    ImageError: the member is not a number.
  """
  if LABEL not in parts:
    return None
  try:
    return int(_text(parts[LABEL], LABEL))
  except ValueError:
    raise ImageError(
        f"its .{LABEL} must be a whole number, got {parts[LABEL][:20]!r}"
    ) from None


def _text(content: bytes, suffix: str) -> str:
  try:
    return content.decode("utf-8").removeprefix("\ufeff").strip()
  except UnicodeDecodeError as e:
    raise ImageError(f"its .{suffix} is not UTF-8, at byte {e.start}") from None


def _json(content: bytes, suffix: str) -> Mapping[str, Any]:
  try:
    record = json.loads(content)
  except (ValueError, RecursionError):
    record = None
  if not isinstance(record, dict):
    raise ImageError(f"its .{suffix} is not a JSON object")
  return record
