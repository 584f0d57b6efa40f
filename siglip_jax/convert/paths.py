"""Paths of others' files, on a disk or in a bucket."""

import os

from etils import epath

from siglip_jax.errors import UserError


def find(path: str | os.PathLike, *, what: str) -> epath.Path:
  """A path that is there.

  Args:
    path: local, or gs://.
    what: is expected, for the message: "a folder of transformers".

  Raises:
    UserError: nothing is there, or it cannot be reached.
  """
  found = epath.Path(path)
  try:
    exists = found.exists()
  # A bucket's library raises what it likes, ImportError where it is missing.
  except Exception as e:  # pylint: disable=broad-except
    raise UserError(
        f"{path} cannot be reached: {e}. Paths gs:// need `pip install gcsfs`"
        " and the right to read."
    ) from None
  if not exists:
    raise UserError(f"There is no {path}: expected {what}.")
  return found
