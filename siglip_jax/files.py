"""Paths of others' files, on a disk or in a bucket."""

import os

from etils import epath

from siglip_jax.errors import UserError


def reach(path: str | os.PathLike) -> epath.Path | None:
  """A path that is there, or None where there is nothing.

  Args:
    path: local, of which ~ is the home, or gs://.

  Raises:
    UserError: it cannot be reached.
  """
  try:
    found = epath.Path(path).expanduser()
    return found if found.exists() else None
  # A bucket's library raises what it likes, ImportError where it is missing.
  except Exception as e:  # pylint: disable=broad-except
    hint = ""
    if "://" in os.fspath(path):
      hint = (
          " Paths gs:// need `pip install gcsfs` and the right to read; what is"
          " elsewhere has to be copied first."
      )
    raise UserError(
        f"{os.fspath(path):.200} cannot be reached: {type(e).__name__}: {e}."
        f"{hint}"
    ) from None


def find(path: str | os.PathLike, *, what: str) -> epath.Path:
  """A path that must be there.

  Args:
    path: as of `reach`.
    what: is expected, for the message: "a folder of transformers".

  Raises:
    UserError: nothing is there, or it cannot be reached.
  """
  found = reach(path)
  if found is None:
    raise UserError(f"There is no {path}: expected {what}.")
  return found
