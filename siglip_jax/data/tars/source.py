"""A source of the samples of indexed tars."""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import hashlib
import itertools
from typing import Any

from jaxtyping import Int64
import numpy as np

from siglip_jax.data import remote
from siglip_jax.data.images import ImageError
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars import members
from siglip_jax.data.tars import scan
from siglip_jax.data.tars.index import Opened
from siglip_jax.data.tars.selection import Selection
from siglip_jax.data.tars.table import Layout
from siglip_jax.data.tars.table import Table
from siglip_jax.data.texts import Texts
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

BLOCK_MB = 8  # one request; 64 lanes with windows of 32 blocks take 17 GB
_TABLES = 512 << 20  # bytes of tables in memory: 30 million samples
_CHUNK = 1024  # records
_GAP = 1 << 16  # bytes that are read for nothing sooner than read twice


class TarSource:
  """A source of samples in tars, each read in one go.

  Args:
    shards: the shards and their index.
    image: suffixes of images; the first that a sample has is its image.
    texts: keys of the texts, as of `members.Key`; None for labels alone.
    selection: which samples of the shards are in the source.
    block_mb: size of a block in megabytes, about.
    in_flight: number of requests that a large remote read may have out.
  """

  def __init__(
      self,
      shards: Opened,
      *,
      image: Sequence[str],
      texts: Texts | None,
      selection: Selection,
      block_mb: int = BLOCK_MB,
      in_flight: int = 16,
  ):
    self._shards, self._image, self._texts = shards, tuple(image), texts
    self._selection, self._block_mb = selection, block_mb
    self._in_flight = in_flight
    self._keys = [members.Key.of(key) for key in texts.keys] if texts else []
    suffixes = {key.suffix for key in self._keys} | {members.LABEL}
    layouts = shards.index.manifest.layouts
    self._images = {x: _image_of(x, self._image) for x in layouts}
    # Layout -> its parts to read: image, texts and label.
    self._wanted = {
        x: [i for i, s in enumerate(x) if i == self._images[x] or s in suffixes]
        for x in layouts
    }
    self._ranges = remote.Ranges(
        shards.paths, etags=shards.etags, in_flight=in_flight
    )
    self._tables = index_lib.Recent(self._load, _TABLES)

  def __reduce__(self):
    make = functools.partial(
        type(self),
        image=self._image,
        texts=self._texts,
        selection=self._selection,
        block_mb=self._block_mb,
        in_flight=self._in_flight,
    )
    return make, (self._shards,)

  def __len__(self) -> int:
    return int(self._selection.starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    layout, parts = self._read(index, self._wanted)
    record: dict[str, Any] = {"image": parts[layout[self._images[layout]]]}
    for key in self._keys:
      if (value := key.value(parts)) is not None:
        record[key.name] = value
    if self._texts:
      record["text"] = self._texts.all(record)
    if (label := members.label(parts)) is not None:
      record["label"] = label
    elif self._texts and not record["text"]:
      raise ImageError(f"it has no text under {' or '.join(self._texts.keys)}")
    return record

  def key(self, index: int) -> str:
    """Returns the shard and the sample's key in it, read from its header."""
    shard, row = self._selection.locate(index)
    path, table = self._shards.paths[shard], self._tables[shard]
    start = int(table.start[row]) * scan.BLOCK
    end = int(table.offsets([row])[0, 0])
    try:
      headers = self._ranges.read(shard, start, end - start)
    except (OSError, TryAgain, UserError):
      return f"{path}, byte {start}"
    # The content is not there, and is not read either.
    for name, *_ in scan.walk(headers, 1 << 62, scan.Notes()):
      folder, slash, base = name.decode("utf-8", "replace").rpartition("/")
      return f"{path}: {folder}{slash}{base.partition('.')[0]}"
    return f"{path}, byte {start}"

  def values(self, key: str) -> list[Any] | None:
    """Returns a column of texts or labels, as `values_of` does."""
    return self.values_of(key, range(len(self)))

  def values_of(self, key: str, indices: Sequence[int]) -> list[Any] | None:
    """Returns texts or labels of some samples, reading no image; else None.

    Args:
      key: "text", "label", or a key as of `members.Key`.
      indices: indices of the samples.

    Raises:
      UserError: a sample's member cannot be read.
    """
    if key == "image" or (key == "text" and not self._texts):
      return None
    if key == "text":
      keys = self._keys
    else:
      keys = [members.Key.of(members.LABEL if key == "label" else key)]
    suffixes = {k.suffix for k in keys}
    wanted = {
        layout: [i for i, suffix in enumerate(layout) if suffix in suffixes]
        for layout in self._wanted
    }
    if not any(wanted.values()):
      return None

    def value(index: int) -> Any:
      try:
        _, parts = self._read(index, wanted)
        if key == "label":
          return members.label(parts)
        record = {k.name: k.value(parts) for k in keys}
        if key == "text" and self._texts:
          return self._texts.all(record)
        return record[key]
      except (ImageError, OSError) as e:
        raise UserError(
            f"{self.key(index)} cannot be read: {e}. Repair or remove it."
        ) from None

    def some(part: Sequence[int]) -> list[Any]:
      return [value(int(index)) for index in part]

    starts = range(0, len(indices), _CHUNK)
    parts = [indices[i : i + _CHUNK] for i in starts]
    columns = index_lib.in_threads(some, parts, f"Reading {key!r}", size=len)
    return list(itertools.chain.from_iterable(columns))

  def columns(self, name: str) -> np.ndarray:
    """Returns a column of the index for all records of the source.

    Raises:
      UserError: the index does not have it, or it is numbers in some shards
        and texts in others.
    """
    index, numbers = self._shards.index, self._shards.numbers

    def part(shard: int) -> np.ndarray:
      table, column = index.column(name, int(numbers[shard]))
      return column[self._selection.rows(shard, table)]

    used = np.flatnonzero(np.diff(self._selection.starts)).tolist()
    parts = index_lib.in_threads(part, used, f"Reading column {name!r}, shards")
    if not parts:
      return np.zeros(0)
    kinds = {p.dtype == object for p in parts if not _is_void(p)}
    if len(kinds) > 1:
      raise UserError(
          f"A column must be numbers or texts; {name!r} is numbers in some"
          " shards and texts in others. Choose another column."
      )
    if kinds == {True}:
      parts = [_as_texts(p) for p in parts]
    return np.concatenate(parts)

  def digest(self) -> str:
    """Returns a digest of the shards' names, headers, sizes and samples."""
    manifest, digest = self._shards.index.manifest, hashlib.sha256()
    for number in self._shards.numbers.tolist():
      words = (manifest.names[number], manifest.digests[number])
      digest.update(repr((*words, int(manifest.sizes[number]))).encode())
    texts = self._texts and sorted(self._texts.weights.items())
    digest.update(repr((self._image, texts)).encode())
    self._selection.add_to(digest)
    return digest.hexdigest()[:12]

  def draw(
      self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Returns a record with one of its texts under "text"."""
    return self._texts.draw(record, rng) if self._texts else dict(record)

  @functools.cached_property
  def block_starts(self) -> Int64[np.ndarray, " B"]:
    """The index of each block's first sample, and the number of samples."""
    counts, starts = self._blocks, self._selection.starts
    lengths = np.diff(starts)
    shard = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(shard)) - np.repeat(np.cumsum(counts), counts)
    number += counts[shard]
    first = starts[shard] + number * lengths[shard] // counts[shard]
    return np.append(first, starts[-1]).astype(np.int64)

  @functools.cached_property
  def _blocks(self) -> np.ndarray:
    """The number of blocks of each shard, by what the manifest says alone."""
    lengths = np.diff(self._selection.starts)
    blocks = -(-self._sizes // (self._block_mb << 20))
    return np.minimum(np.maximum(blocks, 1), lengths).astype(np.int64)

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    """The bytes of each shard's samples in the source, about."""
    manifest, numbers = self._shards.index.manifest, self._shards.numbers
    share = np.diff(self._selection.starts) / np.maximum(
        manifest.samples[numbers], 1
    )
    return np.ceil(manifest.sizes[numbers] * share).astype(np.int64)

  def _load(self, shard: int) -> Table:
    table = self._shards.index.table(int(self._shards.numbers[shard]))
    return table.take(self._selection.rows(shard, table))

  def _read(
      self, index: int, wanted: Mapping[Layout, Sequence[int]]
  ) -> tuple[Layout, dict[str, bytes]]:
    """Returns a sample's layout and the contents of its wanted parts."""
    shard, row = self._selection.locate(index)
    table = self._tables[shard]
    layout = table.layouts[table.layout[row]]
    places = table.parts(row)
    numbers = wanted[layout]
    try:
      contents = self._at(shard, [places[i] for i in numbers])
    except OSError as e:
      # A network that fails must not pass for images that cannot be read.
      if remote.is_remote(self._shards.paths[shard]):
        raise
      raise ImageError(e.strerror or str(e)) from None
    return layout, {
        layout[i]: content for i, content in zip(numbers, contents, strict=True)
    }

  def _at(self, shard: int, places: list[tuple[int, int]]) -> list[bytes]:
    """Returns the contents at some places of a shard, in one read if near."""
    if not places:
      return []
    first = places[0][0]
    size = places[-1][0] + places[-1][1] - first
    if size > sum(n for _, n in places) + _GAP:
      return [self._ranges.read(shard, at, n) for at, n in places]
    content = self._ranges.read(shard, first, size)
    return [content[at - first : at - first + n] for at, n in places]


def _image_of(layout: Layout, image: Sequence[str]) -> int:
  """Returns the part that is the image; -1 if there is none."""
  return next((layout.index(s) for s in image if s in layout), -1)


def _is_void(column: np.ndarray) -> bool:
  """Whether a column has no value, and so is neither numbers nor texts."""
  if column.dtype == object:
    return all(value is None for value in column)
  return column.dtype.kind == "f" and bool(np.isnan(column).all())


def _as_texts(column: np.ndarray) -> np.ndarray:
  return column if column.dtype == object else np.full(len(column), None)
