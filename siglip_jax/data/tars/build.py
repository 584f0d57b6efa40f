"""The making of an index: one pass over each shard, by several processes."""

from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import os
from typing import Any

import numpy as np

from siglip_jax.data import images
from siglip_jax.data import opening
from siglip_jax.data import remote
from siglip_jax.data.remote import stores
from siglip_jax.data.tars import columns as columns_lib
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars import samples as samples_lib
from siglip_jax.data.tars import scan
from siglip_jax.data.tars import table
from siglip_jax.data.tars import window
from siglip_jax.data.tars import workers as workers_lib
from siglip_jax.data.tars.manifest import Manifest
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

IMAGE = ("jpg", "png", "webp", "jpeg")
UNDECODABLE = "images that cannot be decoded"  # as a count
_THREADS = 32  # that look for files of an earlier, interrupted command
_NEAR = 64  # pixels: a JPEG is read whole, and decoded at an eighth
_SUFFIXES = 50  # of a shard that are remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The parts of each sample that an index covers.

  Attributes:
    image: suffixes of images.
    columns: names of columns to store.
    decode: whether to leave out samples with an image that cannot be decoded.
  """

  image: Sequence[str] = IMAGE
  columns: Sequence[str] = ()
  decode: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
  """A shard as it lies there now.

  Attributes:
    path: where it is.
    name: its path within the data set.
    size: its size in bytes.
    etag: its etag; "" on a file system.
    mtime: time of its last change in nanoseconds; 0 if it is remote.
  """

  path: str
  name: str
  size: int
  etag: str
  mtime: int


def suffixes(text: str) -> tuple[str, ...]:
  """Returns the suffixes in a text such as "jpg;png".

  Raises:
    UserError: there is none.
  """
  words = (word.strip().lower().lstrip(".") for word in text.split(";"))
  names = tuple(dict.fromkeys(filter(None, words)))
  if not names:
    raise UserError(
        f"Suffixes of images must be given as 'jpg;png'; got {text!r}."
    )
  return names


def shards(tars: str | Sequence[str]) -> list[Shard]:
  """Returns the shards that a pattern, or several, stand for.

  Raises:
    UserError: there are none, or one of them cannot be reached.
  """
  paths = remote.expand(tars)
  _, names = manifest_lib.within(paths)
  stats = remote.stat(paths)
  return [
      Shard(
          path=path,
          name=name,
          size=stat.size,
          etag=stat.etag,
          mtime=0 if remote.is_remote(path) else os.stat(path).st_mtime_ns,
      )
      for path, name, stat in zip(paths, names, stats, strict=True)
  ]


def index_shard(shard: Shard, options: Options) -> bytes:
  """Returns the index file of a shard, after one walk through it.

  Raises:
    UserError: the shard, or the parquet file beside it, cannot be read.
    TryAgain: the network failed.
  """
  notes = scan.Notes()
  picker = columns_lib.Picker(options.columns)
  with window.opened(shard.path, shard.size, shard.etag) as data:

    def at_member(sample: int, suffix: str, offset: int, size: int) -> bool:
      is_json = suffix == "json" and size <= columns_lib.LONGEST_JSON
      if options.columns and is_json:
        picker.add(sample, data[offset : offset + size])
      if not options.decode or suffix not in options.image or not size:
        return False
      return not _decodes(data[offset : offset + size], notes)

    walk = scan.walk(data, shard.size, notes)
    at = at_member if options.columns or options.decode else None
    samples = samples_lib.group(walk, notes, options.image, at)
  if picker.bad:
    notes.counts["json members that are not JSON objects"] += picker.bad
  words, blobs = _columns(shard, options, picker, samples)
  # The most frequent ones, and these in their order.
  seen = sorted(samples.suffixes.items(), key=lambda item: -item[1])
  header = {
      "shard": shard.name,
      "bytes": shard.size,
      "etag": shard.etag,
      "mtime": shard.mtime,
      "options": _words(options),
      "problem": notes.problem,
      "damages": notes.damages,
      "counts": notes.counts,
      "headers": notes.headers,
      "suffixes": dict(seen[:_SUFFIXES]),
      "groups": _groups(samples.table),
      "columns": words,
      "fields": list(picker.fields),
  }
  return table.encode(samples.table, header, blobs)


def build(
    tars: str | Sequence[str],
    folder: str,
    options: Options,
    *,
    workers: int | None = None,
) -> Manifest:
  """Writes the index of shards into a folder, and returns its manifest.

  A shard whose file is there already, from an earlier command with the same
  options, is not read again unless its size, etag or time has changed.

  Args:
    tars: pattern of the shards, or several.
    folder: the folder, local or remote.
    options: what is read of each sample.
    workers: number of processes; by default one for each core.

  Raises:
    UserError: a shard cannot be read, or no sample has an image.
    TryAgain: a process was killed, or the network failed.
  """
  _check_writable(folder)
  todo = shards(tars)
  contents = _finished(todo, folder, options)
  left = [i for i in range(len(todo)) if i not in contents]
  what = f"Indexing {len(left)} of {len(todo)} shards"
  jobs = [(todo[i], folder, options) for i in left]
  made = workers_lib.run(_make, jobs, workers)
  for i, content in zip(
      left, opening.track(made, what, total=len(left)), strict=True
  ):
    contents[i] = content
  manifest = manifest_lib.of_headers(
      [contents[i] for i in range(len(todo))], options.image
  )
  check(manifest, [contents[i][0] for i in range(len(todo))], options)
  remote.write_small(
      manifest_lib.joined(folder, manifest_lib.NAME),
      manifest_lib.encode(manifest),
  )
  return manifest


def in_memory(
    todo: Sequence[Shard], options: Options
) -> tuple[Manifest, dict[str, bytes]]:
  """Returns the manifest and the index files of a few shards.

  Raises:
    UserError: a shard cannot be read, or no sample has an image.
  """
  contents, headers = {}, []
  for shard in opening.track(todo, "Indexing shards", total=len(todo)):
    content = index_shard(shard, options)
    header = table.read_header(content, shard.name)
    contents[shard.name] = content
    headers.append((header, manifest_lib.digest(header, content)))
  manifest = manifest_lib.of_headers(headers, options.image)
  check(manifest, [header for header, _ in headers], options)
  return manifest, contents


def check(
    manifest: Manifest, headers: Sequence[Mapping[str, Any]], options: Options
) -> None:
  """Raises UserError if there is no sample, or nothing in a column."""
  if not manifest.samples.sum():
    names = ", ".join(manifest.names[:3])
    raise UserError(
        f"The tars ({names}) must hold images, members that end in"
        f" {', '.join(options.image)}; {hint(manifest)}"
    )
  fields = {field: None for header in headers for field in header["fields"]}
  for name in options.columns:
    if not manifest.columns.get(name):
      there = ", ".join(fields) or "none"
      raise UserError(
          f"A column must be a field of the .json members, or of the .parquet"
          f" beside each tar; no sample has {name!r}. Fields: {there}."
      )


def hint(manifest: Manifest) -> str:
  """Returns a sentence on what was met instead of samples."""
  if manifest.problems:
    name, offset, text = manifest.problems[0]
    return f"{name}, byte {offset}: {text}."
  if manifest.suffixes:
    seen = sorted(manifest.suffixes.items(), key=lambda item: -item[1])
    met = ", ".join(f"{name} ({number})" for name, number in seen[:10])
    return f"got the suffixes {met}. Give --image or `image` those of images."
  return "they are empty."


def _decodes(content: bytes, notes: scan.Notes) -> bool:
  """Whether an image can be decoded; a note counts one that cannot."""
  try:
    images.decode(content, near=_NEAR)
  except images.ImageError:
    notes.counts[UNDECODABLE] += 1
    return False
  return True


def _check_writable(folder: str) -> None:
  """Raises UserError if no file can be written in a folder of this kind."""
  scheme, separator, _ = folder.partition("://")
  if separator and scheme not in stores.WRITABLE:
    raise UserError(
        "An index is written to this machine, gs:// or s3://; got"
        f" {folder:.200}. Give --out=DIR, and config.data.index=DIR later."
    )


def _words(options: Options) -> dict[str, Any]:
  return {
      "image": list(options.image),
      "columns": list(options.columns),
      "decode": options.decode,
  }


def _groups(places: table.Table) -> list[tuple[int, int, int]]:
  """Returns rows of layout, samples in training and in validation."""
  n = len(places.layouts)
  both = np.bincount(places.layout, minlength=n).tolist()
  held = np.bincount(places.layout[places.validation], minlength=n).tolist()
  return [(i, both[i] - held[i], held[i]) for i in range(n)]


def _columns(
    shard: Shard,
    options: Options,
    picker: columns_lib.Picker,
    samples: samples_lib.Samples,
) -> tuple[list[dict[str, Any]], list[bytes]]:
  """Returns descriptions and blobs of the columns of a shard."""
  if not options.columns:
    return [], []
  keys = [key.decode("utf-8", "backslashreplace") for key in samples.keys]
  values = {n: picker.column(n, samples.rows) for n in options.columns}
  if columns_lib.KEY in values:
    values[columns_lib.KEY] = keys
  absent = [
      name for name, column in values.items() if all(v is None for v in column)
  ]
  if absent and keys:
    values |= columns_lib.beside(shard.path, absent, keys)
  words, blobs = [], []
  for name in options.columns:
    word, blob = columns_lib.encode(name, values[name])
    words.append(word)
    blobs.append(blob)
  return words, blobs


def _finished(
    todo: Sequence[Shard], folder: str, options: Options
) -> dict[int, tuple[dict[str, Any], str]]:
  """Returns header and digest of the shards whose files are there."""

  def look(shard: Shard) -> tuple[dict[str, Any], str] | None:
    path = manifest_lib.joined(folder, manifest_lib.file_name(shard.name))
    try:
      if not remote.exists(path):
        return None
      content = remote.read_small(path)
      header = table.read_header(content, path)
    except (UserError, OSError):
      return None  # it is written again
    stamp = (shard.size, shard.etag, shard.mtime, _words(options))
    if stamp != tuple(header[k] for k in ("bytes", "etag", "mtime", "options")):
      return None
    return header, manifest_lib.digest(header, content)

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    results = enumerate(pool.map(look, todo))
    return {i: result for i, result in results if result}


def _make(job: tuple[Shard, str, Options]) -> tuple[dict[str, Any], str]:
  """Writes the file of a shard; returns its header and digest."""
  shard, folder, options = job
  try:
    content = index_shard(shard, options)
    path = manifest_lib.joined(folder, manifest_lib.file_name(shard.name))
    remote.write_small(path, content)
  except OSError as e:
    raise TryAgain(
        f"{shard.path} could not be indexed: {e} Run the same command again,"
        " which goes on."
    ) from None
  header = table.read_header(content, path)
  return header, manifest_lib.digest(header, content)
