"""Small files as a whole, local and remote."""

from pathlib import Path

import obstore

from siglip_jax import files
from siglip_jax.data.remote import retries as _retries
from siglip_jax.data.remote import stores
from siglip_jax.data.remote.retries import AT_START
from siglip_jax.data.remote.retries import Retries
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


def read_small(path: str, retries: Retries = AT_START) -> bytes:
  """Returns the content of a file.

  Raises:
    UserError: the file is missing or cannot be read.
  """
  if not files.is_remote(path):
    data = files.read_bytes(path)
    if data is None:
      raise UserError(f"{path} must be a file; there is none. Check the name.")
    return data
  place = stores.place(path)
  store = stores.store(place, retries)
  return _call(
      path, lambda: bytes(obstore.get(store, place.name).bytes()), retries
  )


def write_small(path: str, data: bytes, retries: Retries = AT_START) -> None:
  """Writes a file whole, or not at all.

  Args:
    path: a local path, whose folders are made; or one in a bucket.
    data: the content.
    retries: how often and when a request is repeated.

  Raises:
    UserError: the file cannot be written there.
  """
  if not files.is_remote(path):
    with files.reaching(path):
      target = Path(path).expanduser()
      target.parent.mkdir(parents=True, exist_ok=True)
      with files.replacing(target) as partial:
        partial.write_bytes(data)
    return
  place = stores.place(path)
  if place.scheme not in stores.WRITABLE:
    raise UserError(
        "Files are written to gs://, s3:// or this machine; got"
        f" {path:.200}. Choose another place."
    )
  store = stores.store(place, retries)
  _call(path, lambda: obstore.put(store, place.name, data), retries)


def exists(path: str, retries: Retries = AT_START) -> bool:
  """Whether there is a file.

  Raises:
    UserError: its place cannot be reached.
  """
  if not files.is_remote(path):
    return Path(path).expanduser().is_file()
  place = stores.place(path)
  store = stores.store(place, retries)

  def ask() -> bool:
    try:
      obstore.head(store, place.name)
    except FileNotFoundError:
      return False
    return True

  return _call(path, ask, retries)


def _call(path: str, request, retries: Retries):
  """Returns the result of a request; an error adds what may be missing."""
  try:
    return _retries.call(path, request, retries)
  except TryAgain as e:
    raise TryAgain(f"{e}{_retries.credentials(path)}") from None
