"""Sizes and etags of files, of many at a time."""

from collections.abc import Sequence
from concurrent import futures
import dataclasses
import os
from stat import S_ISREG

import obstore

from siglip_jax.data.remote import expanding
from siglip_jax.data.remote import retries as _retries
from siglip_jax.data.remote import stores
from siglip_jax.data.remote.retries import AT_START
from siglip_jax.data.remote.retries import Retries
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.files import is_remote

_THREADS = 64  # wait for a server together
# From so many files of a folder on, it is listed: 1,000 files a request.
_MANY = 16


@dataclasses.dataclass(frozen=True)
class Stat:
  """A file's size and etag, as its place gives them.

  Attributes:
    size: its bytes.
    etag: a value that changes with its content, without quotes; "" of a local
      file.
  """

  size: int
  etag: str


def stat(paths: Sequence[str], retries: Retries = AT_START) -> list[Stat]:
  """Returns the sizes and etags of files, local or remote.

  Args:
    paths: any number of paths; buckets are listed where that takes fewer
      requests.
    retries: how often and when a request is repeated.

  Raises:
    UserError: a file is missing, forbidden, or cannot be reached.
  """
  known = _listed(paths)
  rest = [path for path in paths if path not in known]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    known |= zip(rest, pool.map(lambda p: _stat(p, retries), rest), strict=True)
  return [known[path] for path in paths]


def bare(etag: str | None) -> str:
  """Returns an etag without quotes and the sign of a weak one."""
  return (etag or "").removeprefix("W/").strip('"')


def _listed(paths: Sequence[str]) -> dict[str, Stat]:
  """Returns the stats of files in buckets of which many lie in one folder."""
  folders: dict[str, list[str]] = {}
  for path in paths:
    if is_remote(path) and path.partition("://")[0] in stores.WRITABLE:
      folders.setdefault(path.rpartition("/")[0], []).append(path)
  stats = {}
  for folder, inside in folders.items():
    if len(inside) < _MANY:
      continue
    name = stores.place(inside[0]).name.rpartition("/")[0]
    try:
      files = expanding.listing(inside[0])(name).files
    except (OSError, TryAgain, UserError):
      continue  # the right to list a bucket may be missing: ask for each file
    for path in inside:
      if (entry := files.get(path[len(folder) + 1 :])) is not None:
        stats[path] = Stat(entry[0], bare(entry[1]))
  return stats


def _stat(path: str, retries: Retries) -> Stat:
  if not is_remote(path):
    return Stat(_local_size(path), "")
  place = stores.place(path)
  store = stores.store(place, retries)
  try:
    return _retries.call(path, lambda: _ask(store, place), retries)
  except TryAgain as e:
    raise TryAgain(f"{e}{_retries.credentials(path)}") from None


def _local_size(path: str) -> int:
  try:
    stat_ = os.stat(path)
    reason = None if S_ISREG(stat_.st_mode) else "it is a folder or a device"
  except OSError as e:
    reason = e.strerror
  if reason is not None:
    raise UserError(
        f"{path} must be a file that can be read: {reason}. Check the name and"
        " the permissions."
    )
  return stat_.st_size


def _ask(store, place: stores.Place) -> Stat:
  if place.scheme in stores.WRITABLE:
    meta = obstore.head(store, place.name)
  else:
    # The first byte: it is answered where HEAD is not, by the same server that
    # reads are, and tells whether that one answers range requests at all.
    try:
      meta = obstore.get(store, place.name, options={"range": (0, 1)}).meta
    except obstore.exceptions.GenericError as e:
      if "status code: 416" not in str(e):
        raise
      meta = obstore.head(store, place.name)  # an empty file has no first byte
  return Stat(meta["size"], bare(meta["e_tag"]))
