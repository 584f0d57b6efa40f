"""JSON files of transformers' folders."""

from collections.abc import Mapping
import json
from pathlib import Path

from siglip_jax.errors import UserError


def read(path: Path, *, default: Mapping | None = None) -> dict:
  """Returns the JSON object in a file, or `default` if there is no file.

  Raises:
    UserError: the file does not hold a JSON object, or it is missing and no
      default is given.
  """
  if not path.is_file():
    if default is not None:
      return dict(default)
    raise UserError(
        f"There is no {path}: expected a folder as transformers'"
        " save_pretrained writes it."
    )
  try:
    value = json.loads(path.read_text())
  except (ValueError, OSError, RecursionError) as e:
    raise UserError(f"{path} is not JSON, or damaged: {e}.") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} must hold a JSON object; got {value!r:.80}.")
  return value
