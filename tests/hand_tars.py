"""Tars written byte by byte, so that anything in them can be wrong."""

import json


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    size_field: bytes | None = None,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    signed: bool = False,
) -> bytes:
  """The 512 bytes before a member's content."""
  block = bytearray(512)
  block[: len(name)] = name
  block[100:108] = b"0000644\0"
  field = b"%011o\0" % size
  if size >= 1 << 33:
    field = b"\x80" + size.to_bytes(11, "big")
  block[124:136] = field if size_field is None else size_field.ljust(12, b"\0")
  block[136:148] = b"%011o\0" % 1_700_000_000
  block[156:157] = kind
  block[257 : 257 + len(magic)] = magic
  block[345 : 345 + len(prefix)] = prefix
  block[148:156] = b" " * 8
  total = sum(byte - 256 * (signed and byte > 127) for byte in block)
  block[148:156] = b"%06o\0 " % total
  return bytes(block)


def padded(content: bytes) -> bytes:
  return content + bytes(-len(content) % 512)


def member(name: str | bytes, content: bytes = b"x", **options) -> bytes:
  """A header and its content."""
  name = name.encode() if isinstance(name, str) else name
  return header(name, len(content), **options) + padded(content)


def pax(records: dict[str, str]) -> bytes:
  """Extended records, which the next member obeys."""
  content = b""
  for key, value in records.items():
    rest = f" {key}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
      length = len(str(length)) + len(rest)
    content += str(length).encode() + rest
  return member("pax", content, kind=b"x")


def gnu_long(name: str) -> bytes:
  """A long name as GNU tar writes it, for the next member."""
  return member("././@LongLink", name.encode() + b"\0", kind=b"L")


END = bytes(1024)


def sample(key: str, number: int = 0, **parts: bytes | None) -> bytes:
  """A sample as img2dataset writes it; a part that is None is left out."""
  fields = {"caption": f"caption {number}", "width": 256 + number}
  given = {
      "jpg": b"image of " + key.encode() * 20,
      "json": json.dumps({"key": key, **fields}).encode(),
      "txt": f"text {number}".encode(),
  } | parts
  return b"".join(
      member(f"{key}.{suffix.replace('_', '.')}", content)
      for suffix, content in given.items()
      if content is not None
  )


def tar(*numbers: int) -> bytes:
  """A tar of samples with keys of nine digits."""
  return b"".join(sample(f"{n:09d}", n) for n in numbers) + END
