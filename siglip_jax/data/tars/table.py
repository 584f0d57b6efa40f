"""The table of a shard: where the parts of its samples lie.

It takes about 5 bytes a sample in a file and 17 in memory: starts follow from
the ends of the samples before, and parts from the parts before, as long as
nothing lies between.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
from typing import Any
import zlib

from jaxtyping import Bool
from jaxtyping import Int64
from jaxtyping import UInt8
from jaxtyping import UInt32
import numpy as np

from siglip_jax.data.tars.scan import BLOCK
from siglip_jax.errors import UserError

Layout = tuple[str, ...]  # suffixes of a sample's parts, in the tar's order
_MAGIC = b"siglip_jax tar shard 1\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """The places of the samples of a shard.

  Attributes:
    layouts: the layouts of its samples.
    layout: number of each sample's layout.
    start: block of 512 bytes at which the first header of a sample lies.
    sizes: sizes of the parts, in bytes; 0 after a sample's last part.
    extra: blocks between a part and the one before it, without its header; None
      where there are none, which is usual.
    validation: whether the hash of a sample's key puts it in validation.
  """

  layouts: Sequence[Layout]
  layout: UInt8[np.ndarray, " N"]
  start: UInt32[np.ndarray, " N"]
  sizes: UInt32[np.ndarray, "N P"]
  extra: UInt32[np.ndarray, "N P"] | None
  validation: Bool[np.ndarray, " N"]

  def __len__(self) -> int:
    return len(self.layout)

  @property
  def nbytes(self) -> int:
    """The memory that it takes, in bytes."""
    arrays = (self.layout, self.start, self.sizes, self.extra, self.validation)
    return sum(0 if a is None else a.nbytes for a in arrays)

  def offsets(
      self, rows: slice | Sequence[int] | np.ndarray
  ) -> Int64[np.ndarray, "M P"]:
    """Returns the offsets in the tar of all parts of some samples, in bytes."""
    blocks = (self.sizes[rows].astype(np.int64) + BLOCK - 1) // BLOCK
    before = np.ones_like(blocks)  # the header
    if self.extra is not None:
      before += self.extra[rows]
    ends = np.cumsum(before + blocks, axis=1)
    return (self.start[rows].astype(np.int64)[:, None] + ends - blocks) * BLOCK

  def parts(self, row: int) -> list[tuple[int, int]]:
    """Returns offset and size of each part of a sample, in bytes."""
    offset = int(self.start[row])
    extra = None if self.extra is None else self.extra[row].tolist()
    found = []
    for i, size in enumerate(self.sizes[row].tolist()):
      offset += 1 if extra is None else 1 + extra[i]
      found.append((offset * BLOCK, size))
      offset += (size + BLOCK - 1) // BLOCK
    return found

  def take(self, rows: Int64[np.ndarray, " M"]) -> "Table":
    """Returns the table of some samples."""
    extra = None if self.extra is None else self.extra[rows]
    return Table(
        layouts=self.layouts,
        layout=self.layout[rows],
        start=self.start[rows],
        sizes=self.sizes[rows],
        extra=extra if extra is not None and extra.any() else None,
        validation=self.validation[rows],
    )

  def of_layouts(self, layouts: set[Layout]) -> Bool[np.ndarray, " N"]:
    """Returns which samples have one of some layouts."""
    chosen = np.array([layout in layouts for layout in self.layouts], bool)
    return chosen[self.layout] if len(self.layouts) else np.zeros(0, bool)


def encode(table: Table, header: Mapping[str, Any], more: Sequence[bytes] = ()):
  """Returns the file of a shard.

  Args:
    table: its table.
    header: what else is to be known of the shard, as JSON values.
    more: further compressed blobs, such as columns.
  """
  blobs = [*_encode_table(table), *more]
  words = {
      **header,
      "samples": len(table),
      "parts": table.sizes.shape[1],
      "layouts": [list(layout) for layout in table.layouts],
      "blobs": [len(blob) for blob in blobs],
  }
  line = json.dumps(words, separators=(",", ":")).encode() + b"\n"
  return b"".join([_MAGIC, line, *blobs])


def decode(content: bytes, name: str) -> tuple[Table, dict[str, Any], list]:
  """Returns the table of a shard, its header and its further blobs.

  Args:
    content: the file, as `encode` returned it.
    name: the file's name, for messages.

  Raises:
    UserError: the file is damaged, or is not one.
  """
  try:
    header, blobs = _split(content)
    return _decode_table(header, blobs), header, blobs[_BLOBS:]
  except (ValueError, KeyError, TypeError, IndexError, zlib.error) as e:
    raise UserError(
        f"{name} must be a file that python -m siglip_jax.data.index wrote; it"
        f" is damaged or another file ({e}). Remove it and run that again."
    ) from None


def read_header(content: bytes, name: str) -> dict[str, Any]:
  """Returns the header of a shard's file alone.

  Raises:
    UserError: the file is damaged, or is not one.
  """
  return decode(content, name)[1]


def digest_of(content: bytes) -> bytes:
  """Returns the bytes of a shard's file that say where its samples lie."""
  header, blobs = _split(content)
  return json.dumps(header["layouts"]).encode() + b"".join(blobs[:_BLOBS])


def pack(array: np.ndarray) -> bytes:
  """Compresses an array, the bytes of one significance after another."""
  planes = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
  return zlib.compress(np.ascontiguousarray(planes.T).tobytes(), 6)


def unpack(blob: bytes, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the array that `pack` compressed.

  Raises:
    ValueError: the array has another size.
  """
  dtype = np.dtype(dtype)
  size = int(np.prod(shape)) * dtype.itemsize
  planes = np.frombuffer(inflate(blob, size), np.uint8)
  rows = planes.reshape(dtype.itemsize, -1).T
  return np.ascontiguousarray(rows).view(dtype).reshape(shape)


def inflate(blob: bytes, size: int) -> bytes:
  """Returns what a blob holds, without more memory than it should take.

  Raises:
    ValueError: the content is not `size` bytes long.
  """
  reader = zlib.decompressobj()
  content = reader.decompress(blob, size + 1)
  if len(content) != size:
    raise ValueError(f"expected {size} bytes, got {len(content)} or more")
  return content


_BLOBS = 5  # of a table


def _encode_table(table: Table) -> list[bytes]:
  n, parts = table.sizes.shape
  after = np.zeros(n, np.int64)  # where the next sample should start
  if n and parts:
    blocks = (table.sizes.astype(np.int64) + BLOCK - 1) // BLOCK
    extra = 0 if table.extra is None else table.extra.astype(np.int64)
    used = (blocks + extra + (blocks > 0)).sum(axis=1)
    after[1:] = (table.start + used)[:-1]
  # Parts one after the other: sizes of texts are alike, as those of images.
  return [
      pack(table.layout),
      pack((table.start - after).astype("<i8")),
      pack(table.sizes.T.astype("<u4")),
      b"" if table.extra is None else pack(table.extra.T.astype("<u4")),
      zlib.compress(np.packbits(table.validation).tobytes()),
  ]


def _split(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
  if not content.startswith(_MAGIC):
    raise ValueError("its first line is another one")
  line, _, rest = content[len(_MAGIC) :].partition(b"\n")
  header = json.loads(line)
  blobs, position = [], 0
  for size in header["blobs"]:
    blobs.append(rest[position : position + size])
    position += size
  if position != len(rest):
    raise ValueError(f"{position} bytes were written, {len(rest)} are there")
  return header, blobs


def _decode_table(header: dict[str, Any], blobs: Sequence[bytes]) -> Table:
  n, parts = header["samples"], header["parts"]
  sizes = unpack(blobs[2], "<u4", (parts, n)).T
  extra = unpack(blobs[3], "<u4", (parts, n)).T if blobs[3] else None
  gaps = unpack(blobs[1], "<i8", (n,))
  blocks = (sizes.astype(np.int64) + BLOCK - 1) // BLOCK
  used = (blocks + (0 if extra is None else extra) + (blocks > 0)).sum(axis=1)
  before = np.concatenate([[0], np.cumsum(gaps + used)[:-1]]) if n else gaps
  bits = np.frombuffer(inflate(blobs[4], (n + 7) // 8), np.uint8)
  return Table(
      layouts=[tuple(layout) for layout in header["layouts"]],
      layout=unpack(blobs[0], np.uint8, (n,)),
      start=(gaps + before).astype(np.uint32),
      sizes=np.ascontiguousarray(sizes),
      extra=None if extra is None else np.ascontiguousarray(extra),
      validation=np.unpackbits(bits, count=n).astype(bool),
  )
