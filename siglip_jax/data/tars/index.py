"""An index as a source reads it: the manifest at once, tables when needed."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import hashlib
import threading
from typing import Any
from typing import Generic
from typing import Protocol
from typing import TypeVar
from typing import runtime_checkable

import numpy as np

from siglip_jax.data import opening
from siglip_jax.data import remote
from siglip_jax.data.remote import stores
from siglip_jax.data.tars import build
from siglip_jax.data.tars import columns as columns_lib
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars import table as table_lib
from siglip_jax.data.tars.manifest import MAKE
from siglip_jax.data.tars.manifest import Manifest
from siglip_jax.errors import UserError

FOLDER = "index"  # beside the tars
IN_MEMORY = 2 << 30  # bytes of tars that are read at each start
_THREADS = 16
_NAMED = 3  # shards in a message


@runtime_checkable
class Sized(Protocol):
  """Something that takes memory."""

  @property
  def nbytes(self) -> int:
    """The memory in bytes."""
    ...


_T = TypeVar("_T", bound=Sized)


class Index:
  """An index in a folder, or one that was made for this run alone.

  Args:
    folder: the folder; None if the index is in memory.
    manifest: its manifest; read if it is None.
    contents: files of the shards by their names, if it is in memory.
  """

  def __init__(
      self,
      folder: str | None,
      manifest: Manifest | None = None,
      contents: dict[str, bytes] | None = None,
      digest: str | None = None,
  ):
    manifest = manifest or manifest_lib.read(str(folder))
    if manifest is None:
      raise UserError(
          f"There is no index in {folder}: expected {manifest_lib.NAME}. Make"
          f" it: {MAKE} TARS --out={folder}."
      )
    self.folder, self.manifest, self._contents = folder, manifest, contents
    if digest not in (None, self.digest()):
      raise UserError(
          f"The index in {folder} must stay as it is during a run; it was made"
          " again. Start the run again."
      )

  def digest(self) -> str:
    """Returns a digest of the shards and their tables, in order."""
    words = (list(self.manifest.names), list(self.manifest.digests))
    return hashlib.sha256(repr(words).encode()).hexdigest()

  def __reduce__(self):
    # A worker process reads a manifest faster than it is sent.
    sent = self.manifest if self.folder is None else None
    return Index, (self.folder, sent, self._contents, self.digest())

  def file(self, number: int) -> tuple[bytes, str]:
    """Returns the file of a shard and its name.

    Args:
      number: the shard's place in the manifest.
    """
    shard = self.manifest.names[number]
    if self._contents is not None:
      return self._contents[shard], shard
    name = manifest_lib.file_name(shard)
    path = manifest_lib.joined(str(self.folder), name)
    return remote.read_small(path), path

  def table(self, number: int) -> table_lib.Table:
    """Returns the table of a shard.

    Raises:
      UserError: its file is missing, damaged, or not the manifest's.
    """
    return self._decoded(number)[0]

  def column(
      self, name: str, number: int
  ) -> tuple[table_lib.Table, np.ndarray]:
    """Returns the table of a shard, and a column of its samples.

    Raises:
      UserError: as of `table`; or the index does not have the column.
    """
    table, header, blobs, path = self._decoded(number)
    for words, blob in zip(header["columns"], blobs, strict=False):
      if words["name"] == name:
        try:
          return table, columns_lib.decode(words, blob, len(table))
        except (ValueError, KeyError, TypeError) as e:
          raise UserError(
              f"{path} has a damaged column {name!r} ({e}). Remove it and run"
              f" {MAKE} again."
          ) from None
    there = ", ".join(self.manifest.columns) or "none"
    raise UserError(
        f"A column must be in the index; it has no {name!r}. Its columns:"
        f" {there}. Make it again with --columns={name}."
    )

  def _decoded(self, number: int):
    content, path = self.file(number)
    table, header, blobs = table_lib.decode(content, path)
    if manifest_lib.digest(header, content) != self.manifest.digests[number]:
      raise UserError(
          f"{path} must be of the same index as {manifest_lib.NAME}; it is of"
          f" another one. Run {MAKE} again, to its end."
      )
    return table, header, blobs, path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
  """Shards and their index, which fit together.

  Attributes:
    index: the index.
    paths: the shards.
    etags: their etags; "" on a file system.
    numbers: their places in the manifest.
  """

  index: Index
  paths: Sequence[str]
  etags: Sequence[str]
  numbers: np.ndarray


def opened(
    tars: str | Sequence[str],
    folder: str | None = None,
    image: Sequence[str] | None = None,
) -> Opened:
  """Opens shards and checks that they are as they were when indexed.

  Args:
    tars: pattern of the shards, or several.
    folder: folder of the index; by default `index` beside the first shard, and
      without one, small local shards are read through once.
    image: suffixes of images, for shards without an index.

  Raises:
    UserError: shards are missing, or changed, or have no index; or it has
      another format.
  """
  paths = remote.expand(tars)
  if folder is None:
    folder = beside(paths)
    if not remote.exists(manifest_lib.joined(folder, manifest_lib.NAME)):
      return _without_index(tars, paths, image)
  index = Index(folder)
  numbers = _numbers(paths, index)
  stats = remote.stat(paths)
  manifest = index.manifest
  changed = []
  for path, stat, number in zip(paths, stats, numbers, strict=True):
    etag = manifest.etags[number]
    if stat.size != manifest.sizes[number]:
      changed.append(
          f"{path} ({stat.size} bytes, {manifest.sizes[number]} when indexed)"
      )
    elif etag and stat.etag and stat.etag != etag:
      changed.append(f"{path} (etag {stat.etag}, {etag} when indexed)")
  if changed:
    more = len(changed) - _NAMED
    raise UserError(
        "Shards must be as they were when they were indexed; changed:"
        f" {', '.join(changed[:_NAMED])}"
        f"{f' and {more} more' if more > 0 else ''}. Run {MAKE} again, which"
        " reads the changed ones alone."
    )
  etags = [stat.etag for stat in stats]
  return Opened(
      index=index, paths=paths, etags=etags, numbers=np.array(numbers, np.int64)
  )


def _without_index(
    tars: str | Sequence[str], paths: Sequence[str], image: Sequence[str] | None
) -> Opened:
  """Reads small local shards through; raises UserError for others."""
  named = [tars] if isinstance(tars, str) else list(tars)
  shown = " ".join(f"'{name}'" for name in named[:_NAMED])
  dots = " ..." if len(named) > _NAMED else ""
  out = beside(paths)
  if out.partition("://")[0] in stores.SCHEMES:
    out = out if out.partition("://")[0] in stores.WRITABLE else "DIR"
  command = f"{MAKE} {shown}{dots} --out={out}"
  if any(remote.is_remote(path) for path in paths):
    raise UserError(
        f"Remote tars need an index; there is none beside {paths[0]}. Make it"
        f" once: {command}. Or name it: config.data.index=DIR."
    )
  shards = build.shards(paths)
  size = sum(shard.size for shard in shards)
  if size > IN_MEMORY:
    raise UserError(
        f"Tars of over 2 GB need an index; these have {size / 1e9:.1f} GB, and"
        f" there is none beside them. Make it once: {command}. Or name it:"
        " config.data.index=DIR."
    )
  options = build.Options(image=image or build.IMAGE)
  manifest, contents = build.in_memory(shards, options)
  return Opened(
      index=Index(None, manifest, contents),
      paths=paths,
      etags=[""] * len(paths),
      numbers=np.arange(len(paths)),
  )


def beside(paths: Sequence[str]) -> str:
  """Returns the folder of an index that is not named: beside the first tar."""
  head, slash, _ = paths[0].rpartition("/")
  return manifest_lib.joined(head or slash or ".", FOLDER)


def _numbers(paths: Sequence[str], index: Index) -> list[int]:
  """Returns each shard's place in the manifest, by the end of its path."""
  places = {name: i for i, name in enumerate(index.manifest.names)}
  numbers: dict[int, str] = {}
  for path in paths:
    words = path.split("/")
    ends = ("/".join(words[i:]) for i in range(len(words)))
    number = next((places[end] for end in ends if end in places), None)
    if number is None:
      raise UserError(
          f"Each tar must be in the index; {index.folder} has no {path}, but"
          f" {', '.join(index.manifest.names[:_NAMED])} ... Run {MAKE} again"
          " with all tars, or name another index."
      )
    if number in numbers:
      raise UserError(
          "Each tar must have its own entry in the index; in"
          f" {index.folder}, {numbers[number]} and {path} have the same. Run"
          f" {MAKE} again with all tars."
      )
    numbers[number] = path
  return list(numbers)


class Recent(Generic[_T]):
  """Things that are loaded by number; those used last stay in memory.

  Threads may share it, and may load the same thing at the same time.

  Args:
    load: called with a number, returns what has it, with its `nbytes`.
    limit: bytes that stay in memory, more only for a single thing.
  """

  def __init__(self, load: Callable[[int], _T], limit: int):
    self._load, self._limit = load, limit
    self._kept: collections.OrderedDict[int, _T] = collections.OrderedDict()
    self._size = 0
    self._lock = threading.Lock()

  def __getitem__(self, number: int) -> _T:
    with self._lock:
      if number in self._kept:
        self._kept.move_to_end(number)
        return self._kept[number]
    thing = self._load(number)
    with self._lock:
      if number not in self._kept:
        self._kept[number] = thing
        self._size += thing.nbytes
      while self._size > self._limit and len(self._kept) > 1:
        self._size -= self._kept.popitem(last=False)[1].nbytes
    return thing


def in_threads(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    what: str,
    *,
    size: Callable[[Any], int] = lambda _: 1,
) -> list[Any]:
  """Returns the results of a function that waits for a disk or a network.

  Args:
    function: called with each item.
    items: the items.
    what: what is done, for lines on stderr if it takes long.
    size: number of things in a result, for these lines.
  """
  total = None if size is len else len(items)
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    results = pool.map(function, items)
    return list(opening.track(results, what, total=total, size=size))
