"""JSON files of transformers' folders."""

from collections.abc import Mapping
import json
from pathlib import Path

from siglip_jax.errors import UserError


def read(path: Path, *, default: Mapping | None = None) -> dict:
  """A JSON object; `default` where there is no file.

  Raises:
    UserError: no such file, or no JSON object in it.
  """
  if not path.is_file():
    if default is not None:
      return dict(default)
    raise UserError(
        f"There is no {path}: expected a folder as transformers'"
        " save_pretrained writes it."
    )
  try:
    found = json.loads(path.read_text())
  except (ValueError, OSError, RecursionError) as e:
    raise UserError(f"{path} is no JSON, or damaged: {e}.") from None
  if not isinstance(found, dict):
    raise UserError(f"{path} must hold a JSON object; got {found!r:.80}.")
  return found
