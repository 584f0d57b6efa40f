"""A walk through the headers of a tar, which names what it cannot use.

Every header's checksum is verified. After a damaged header the walk looks for
the next valid one at a multiple of 512 bytes, so damage costs the members that
it hit and not the rest of the shard. Nothing is ever written to disk, and the
sizes that a header claims are never allocated.
"""

import collections
from collections.abc import Iterator
import dataclasses
from typing import Protocol
from typing import runtime_checkable
import zlib

BLOCK = 512
_ZERO = bytes(BLOCK)
_LONGEST_HEADER = 1 << 20  # bytes of a pax record or a GNU long name
_MOST_DAMAGES = 20  # that are named for a shard; the others are counted
_CHUNK = 1 << 20
_PRIME = (1 << 61) - 1
_PLAIN = b"0\x007"  # regular files; 7 is one that is to be contiguous
_LINKS = {ord("1"): "hard links", ord("2"): "symbolic links"}
_SLASH, _NEWLINE = b"/\n"
_SPECIAL = b"346"  # devices and pipes
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
# Name without its extended headers, start of the first of these or of the
# header, offset and size of the content; all in bytes.
Member = tuple[bytes, int, int, int]


@runtime_checkable
class Data(Protocol):
  """The bytes of a shard: an mmap, bytes, or a window on a remote file."""

  def __getitem__(self, part: slice, /) -> bytes:
    ...

  def find(self, sub: bytes, start: int, /) -> int:
    """Returns the first place of `sub` at or after `start`, or -1."""
    ...


@dataclasses.dataclass
class Notes:
  """The oddities that a walk met, by kind, and damage by its offset.

  Attributes:
    counts: kind -> number of members.
    damages: offset and description of each damage; the first few.
    problem: why nothing can be read, as "compressed by gzip"; or "".
    headers: a sum of all headers. It changes with the members' names, sizes,
      times and order.
  """

  counts: collections.Counter[str] = dataclasses.field(
      default_factory=collections.Counter
  )
  damages: list[tuple[int, str]] = dataclasses.field(default_factory=list)
  problem: str = ""
  headers: int = 0

  def damage(self, offset: int, text: str) -> None:
    """Notes damage at an offset."""
    self.counts["damage"] += 1
    if len(self.damages) < _MOST_DAMAGES:
      self.damages.append((offset, text))


def walk(data: Data, end: int, notes: Notes) -> Iterator[Member]:
  """Yields the regular files of a tar, in their order.

  Args:
    data: the bytes of the tar.
    end: its size.
    notes: what is met on the way is added to it.
  """
  notes.problem = _problem(data, end)
  position, headers = 0, 0
  extended = _Extended()
  while position + BLOCK <= end and not notes.problem:
    header = data[position : position + BLOCK]
    if not (checked := _sum(header)):
      extended = _Extended()
      position = _next_header(data, position, end, notes)
      continue
    headers = (31 * headers + checked) % _PRIME
    size, kind = _size(header), header[156]
    start, offset = position, position + BLOCK
    if size < 0:
      notes.damage(position, "a size that is not a number")
      position, extended = offset, _Extended()
      continue
    if extended.used:
      start = extended.start
      if kind in _PLAIN and extended.size is not None:
        size = extended.size
    if kind in b"12345" or (not kind and _is_folder(header)):
      size = 0  # these have no content, whatever the header says
    position = offset + (size + BLOCK - 1) // BLOCK * BLOCK
    if offset + size > end:
      position = _past_the_end(data, start, offset, end, notes)
      extended = _Extended()
    elif kind in b"xLgK":
      extended.read(data, start, offset, size, kind, notes)
    else:
      if kind == ord("S"):
        position = _after_sparse(data, header, offset, end) + position - offset
      name = _name(header)
      if kind not in _PLAIN or extended.used or not name or name[-1] == _SLASH:
        name = extended.usable(header, notes)
        extended = _Extended()
      if name:
        yield name, start, offset, size
  if 0 < end - position < BLOCK and not notes.problem:
    notes.damage(position, "a last block of less than 512 bytes")
  notes.headers = headers


def _sum(header: bytes) -> int:
  """Returns the Adler-32 of a header; 0 if its checksum is not right.

  The checksum is the sum of all bytes, its own taken for spaces. The lower half
  of Adler-32 is 1 + the sum, modulo 65521, and ten times as fast as sum().
  """
  field = header[148:156]
  try:
    stated = int(field.strip(b"\0 "), 8)
  except ValueError:
    return 0
  total = zlib.adler32(header)
  others = (total & 0xFFFF) - (zlib.adler32(field) & 0xFFFF) + 8 * 32
  if (stated - others) % 65521 == 0:
    return total
  # Some old programs took bytes for signed.
  large = sum(byte > 127 for byte in header[:148] + header[156:])
  return 0 if (stated - others + 256 * large) % 65521 else total


def _size(header: bytes) -> int:
  """Returns the size that a header states, or -1 if it is not a number."""
  field = header[124:136]
  if field[0] & 0x80:  # GNU's base 256, for sizes over 8 GB
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
  try:
    return int(field.strip(b"\0 ") or b"0", 8)
  except ValueError:
    return -1


def _name(header: bytes) -> bytes:
  """Returns the name in a header."""
  end = header.find(b"\0", 0, 100)
  name = header[: end if end >= 0 else 100]
  if header[345] and header[257:263] == b"ustar\0":
    return header[345:500].partition(b"\0")[0] + b"/" + name
  return name


def _is_folder(header: bytes) -> bool:
  """Whether a header without a type, or of type 5, is a folder's."""
  return header[156] == ord("5") or _name(header).endswith(b"/")


class _Extended:
  """The pax records and GNU long names before a header."""

  def __init__(self):
    self.used = self.broken = self.sparse = False
    self.start = 0
    self.name: bytes | None = None
    self.size: int | None = None

  def read(
      self,
      data: Data,
      start: int,
      offset: int,
      size: int,
      kind: int,
      notes: Notes,
  ) -> None:
    """Reads an extended header; a broken one spoils the next member alone."""
    if kind == ord("g"):  # of all members, where only comments are in use
      return
    self.start, self.used = start, True
    if kind == ord("K"):  # the target of a link
      return
    if size > _LONGEST_HEADER:
      notes.damage(start, f"an extended header of {size} bytes, over 1 MiB")
      self.broken = True
      return
    content = data[offset : offset + size]
    if kind == ord("L"):
      self.name = content.partition(b"\0")[0]
    elif not self._pax(content):
      notes.damage(start, "pax records that cannot be read")
      self.broken = True

  def _pax(self, content: bytes) -> bool:
    """Takes the records "LENGTH KEY=VALUE\\n"; whether all could be read."""
    content = content.rstrip(b"\0")
    begin = 0
    while begin < len(content):
      space = content.find(b" ", begin, begin + 20)
      digits = content[begin:space]
      end = begin + int(digits) if space > begin and digits.isdigit() else 0
      key, equals, value = content[space + 1 : end - 1].partition(b"=")
      if not space < end <= len(content) or content[end - 1] != _NEWLINE:
        return False
      if not equals:
        return False
      if key == b"path":
        self.name = value
      elif key == b"size":
        if not value.isdigit() or len(value) > 20:
          return False
        self.size = int(value)
      elif key.startswith(b"GNU.sparse."):
        self.sparse = True
      begin = end
    return True

  def usable(self, header: bytes, notes: Notes) -> bytes | None:
    """Returns the name of a regular file; None, with a note, for others."""
    kind = header[156]
    name = _name(header) if self.name is None else self.name
    if kind in _LINKS:
      notes.counts[_LINKS[kind]] += 1
    elif kind == ord("5") or (kind == 0 and name.endswith(b"/")):
      notes.counts["folders"] += 1
    elif kind == ord("S") or self.sparse:
      notes.counts["sparse files"] += 1
    elif kind in _SPECIAL:
      notes.counts["devices and pipes"] += 1
    elif kind not in _PLAIN:
      notes.counts["members of unknown types"] += 1
    elif self.broken:
      notes.counts["members after a broken header"] += 1
    elif not name:
      notes.counts["names without a key or a suffix"] += 1
    else:
      return name
    return None


def _after_sparse(data: Data, header: bytes, offset: int, end: int) -> int:
  """Returns where the content begins after the maps of a GNU sparse file."""
  more = header[482]
  while more and offset + BLOCK <= end:
    more = data[offset + 504 : offset + 505] != b"\0"
    offset += BLOCK
  return offset


def _past_the_end(
    data: Data, start: int, offset: int, end: int, notes: Notes
) -> int:
  """Notes content that would end after the file; returns where to go on."""
  found = _search(data, offset, end)
  if found < end:
    notes.damage(start, "a size that goes beyond the end of the file")
  else:
    notes.damage(start, "a truncated member")
  return found


def _next_header(data: Data, position: int, end: int, notes: Notes) -> int:
  """Returns where the walk goes on after a block that is not a header."""
  first, step = position, BLOCK
  while position < end:
    part = data[position : min(position + step, end)]
    if rest := part.lstrip(b"\0"):
      position += (len(part) - len(rest)) // BLOCK * BLOCK
      break
    position += len(part)
    step = min(2 * step, _CHUNK)  # so that no byte is read many times
  if position >= end:
    return end
  header = data[position : position + BLOCK]
  if position > first and len(header) == BLOCK and _sum(header):
    notes.counts["tars after the first, concatenated"] += 1
    return position
  found = _search(data, position, end)
  text = "a damaged header" if position == first else "no tar after the end"
  lost = found - position
  notes.damage(position, f"{text}; {lost} bytes were passed over")
  return found


def _search(data: Data, position: int, end: int) -> int:
  """Returns the next valid header at a multiple of 512 bytes, or the end."""
  place = position + 256
  while (place := data.find(b"ustar", place + 1)) >= 0:
    start = place - 257
    if start % BLOCK or start + BLOCK > end:
      continue
    if _sum(data[start : start + BLOCK]):
      return start
  return end


def _problem(data: Data, end: int) -> str:
  """Returns why a file is not a tar at all, or ""."""
  if not end:
    return "an empty file"
  first = data[:BLOCK]
  for magic, name in _COMPRESSED.items():
    if first.startswith(magic):
      return f"compressed by {name}: decompress it"
  if len(first) < BLOCK:
    return "not a tar: shorter than 512 bytes"
  if first != _ZERO and not _sum(first) and _search(data, 0, end) == end:
    return "not a tar: it has no valid header"
  return ""
