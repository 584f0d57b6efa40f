"""The walk through a tar: as tarfile where all is well, and never silent."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time
import tracemalloc

import hand_tars
from hand_tars import END
from hand_tars import header
from hand_tars import member
import pytest

from siglip_jax.data.tars import scan


def walk(data: bytes):
  notes = scan.Notes()
  return list(scan.walk(data, len(data), notes)), notes


def names(data: bytes):
  """Names, and the notes: counts, then damages as text, then the problem."""
  members, notes = walk(data)
  counts = {k: n for k, n in notes.counts.items() if k != "damage"}
  damages = [f"{offset}: {text}" for offset, text in notes.damages]
  return [m[0].decode() for m in members], counts, damages, notes.problem


def random_tar(form: int, seed: int) -> bytes:
  """Files of random sizes and names, folders and links among them."""
  rng = random.Random(seed)
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w", format=form) as tar:
    for i in range(40):
      length = rng.choice([3, 50, 90, 99, 100, 101, 150])
      letters = "ab/ü" if form != tarfile.USTAR_FORMAT else "ab/"
      name = "".join(rng.choices(letters, k=length)).strip("/") + f"/{i}.jpg"
      info = tarfile.TarInfo(name.replace("//", "/"))
      info.type = rng.choice(
          [tarfile.REGTYPE] * 5 + [tarfile.DIRTYPE, tarfile.SYMTYPE]
      )
      info.linkname = "a" * 120 if info.issym() else ""
      size = rng.choice([0, 1, 511, 512, 513, 5000]) if info.isreg() else 0
      info.size, info.mtime = size, rng.choice([0, 1.5, 1e9])
      try:
        tar.addfile(info, io.BytesIO(rng.randbytes(size)))
      except ValueError:
        pass  # a name that this format has no room for
  return file.getvalue()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_an_ordinary_tar_is_read_as_by_tarfile(form, seed):
  data = random_tar(form, seed)
  with tarfile.open(fileobj=io.BytesIO(data)) as tar:
    expected = [
        (m.name.encode("utf-8", "surrogateescape"), m.offset_data, m.size)
        for m in tar
        if m.isreg()
    ]
  members, notes = walk(data)
  assert [(name, at, size) for name, _, at, size in members] == expected
  assert len(expected) > 15 and not notes.damages and not notes.problem


A, B, C = (member(f"{x}.jpg", x.encode() * 700) for x in "abc")
KINDS = {
    "GNU long name": (
        hand_tars.gnu_long("d" * 150 + "/a.jpg") + member("x", b"1") + B,
        ["d" * 150 + "/a.jpg", "b.jpg"],
    ),
    "pax path": (
        hand_tars.pax({"path": "é" * 80 + ".jpg"}) + member("x") + B,
        ["é" * 80 + ".jpg", "b.jpg"],
    ),
    "pax size": (
        hand_tars.pax({"size": "3"})
        + header(b"a.jpg", 0)
        + hand_tars.padded(b"abc")
        + B,
        ["a.jpg", "b.jpg"],
    ),
    "ustar prefix": (member("a.jpg", prefix=b"dir/sub"), ["dir/sub/a.jpg"]),
    "prefix of GNU is something else": (
        member("a.jpg", prefix=b"123", magic=b"ustar  \0"),
        ["a.jpg"],
    ),
    "base 256": (
        header(b"a.jpg", size_field=b"\x80" + (700).to_bytes(11, "big"))
        + A[512:]
        + B,
        ["a.jpg", "b.jpg"],
    ),
    "twelve digits": (
        header(b"a.jpg", size_field=b"000000001274") + A[512:] + B,
        ["a.jpg", "b.jpg"],
    ),
    "spaces": (
        header(b"a.jpg", size_field=b"      1274 ") + A[512:] + B,
        ["a.jpg", "b.jpg"],
    ),
    "checksum of signed bytes": (
        member("ü.jpg".encode("latin-1"), signed=True),
        None,
    ),
    "old tar": (
        member("dir/", b"", kind=b"\0", magic=b"")
        + member("dir/a.jpg", kind=b"\0", magic=b""),
        ["dir/a.jpg"],
    ),
    "only a global header": (
        member("pax", b"20 comment=whatever\n", kind=b"g") + A,
        ["a.jpg"],
    ),
    "no end": (A + B, ["a.jpg", "b.jpg"]),
    "tail of zeros": (A + bytes(1 << 21), ["a.jpg"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_names_and_sizes_is_understood(kind):
  data, expected = KINDS[kind]
  found, _, damages, problem = names(data) if expected else ([], {}, [], "")
  if expected is None:
    assert [m[0] for m in walk(data)[0]] == ["ü.jpg".encode("latin-1")]
  else:
    assert found == expected
  assert not damages and not problem


COUNTED = {
    "hard link": (member("b", b"", kind=b"1"), {"hard links": 1}),
    "symbolic link": (member("b", b"", kind=b"2"), {"symbolic links": 1}),
    "link with a size": (
        header(b"b", 4096, b"1"),
        {"hard links": 1},
    ),
    "folder": (member("dir/", b"", kind=b"5"), {"folders": 1}),
    "device": (member("null", b"", kind=b"3"), {"devices and pipes": 1}),
    "unknown": (
        member("volume", b"abc", kind=b"M"),
        {"members of unknown types": 1},
    ),
    "sparse": (
        member("s.jpg", b"abc", kind=b"S", magic=b"ustar  \0"),
        {"sparse files": 1},
    ),
    "sparse in pax": (
        hand_tars.pax({"GNU.sparse.major": "1"}) + member("s.jpg", b"abc"),
        {"sparse files": 1},
    ),
    "no name": (
        member("", b"abc"),
        {"names without a key or a suffix": 1},
    ),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_what_is_not_a_file_is_counted(kind):
  data, counts = COUNTED[kind]
  assert names(A + data + B + END) == (["a.jpg", "b.jpg"], counts, [], "")


def test_the_maps_of_a_sparse_file_are_passed_over():
  sparse = bytearray(header(b"s.jpg", 512, b"S", magic=b"ustar  \0"))
  sparse[482] = 1
  sparse[148:156] = b" " * 8
  sparse[148:156] = b"%06o\0 " % sum(sparse)
  maps = bytes(504) + b"\1" + bytes(7) + bytes(512)
  found = names(A + bytes(sparse) + maps + bytes(512) + B)
  assert found == (["a.jpg", "b.jpg"], {"sparse files": 1}, [], "")


def test_two_tars_in_one_file_are_both_read():
  found = names(A + END + bytes(8192) + B + END)
  counts = {"tars after the first, concatenated": 1}
  assert found == (["a.jpg", "b.jpg"], counts, [], "")


def test_a_damaged_header_costs_one_member_and_is_named():
  damaged = A + b"?" * 512 + B[512:] + C + END
  found, _, damages, _ = names(damaged)
  assert found == ["a.jpg", "c.jpg"]
  assert damages == ["1536: a damaged header; 1536 bytes were passed over"]


def test_one_flipped_bit_is_noticed():
  damaged = bytearray(A + B + C)
  damaged[1536] ^= 1  # of the name, which reads c.jpg
  found, _, damages, _ = names(bytes(damaged))
  assert found == ["a.jpg", "c.jpg"] and len(damages) == 1


def test_damage_at_the_start_costs_one_member():
  found, _, damages, problem = names(b"?" * 512 + A[512:] + B + END)
  assert (found, problem) == (["b.jpg"], "")
  assert damages == ["0: a damaged header; 1536 bytes were passed over"]


def test_something_after_the_end_is_named():
  found, _, damages, _ = names(A + END + b"?" * 700)
  assert found == ["a.jpg"]
  assert damages == ["2560: no tar after the end; 700 bytes were passed over"]


TRUNCATED = {
    "in the content": (A + B[:900], "1536: a truncated member"),
    "in a header": (A + B[:300], "1536: a last block of less than 512 bytes"),
    "in a pax record": (
        A + hand_tars.pax({"path": "b" * 800})[:900],
        "1536: a truncated member",
    ),
}


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_truncated_tar_keeps_its_whole_members(kind):
  data, damage = TRUNCATED[kind]
  assert names(data) == (["a.jpg"], {}, [damage], "")


def test_padding_that_was_cut_off_is_not_missed():
  assert names((A + B)[:-100]) == (["a.jpg", "b.jpg"], {}, [], "")


@pytest.mark.parametrize(
    "field", [b"\x80" + (1 << 60).to_bytes(11, "big"), b"77777777777\0"]
)
def test_a_size_beyond_the_file_costs_one_member(field):
  lie = header(b"lie.jpg", size_field=field)
  found, _, damages, _ = names(A + lie + B + END)
  assert found == ["a.jpg", "b.jpg"]
  assert damages == ["1536: a size that goes beyond the end of the file"]


@pytest.mark.parametrize("field", [b"-0000000512\0", b"hello\0", b"\xff" * 12])
def test_a_size_that_is_not_a_number_is_named(field):
  found, _, damages, _ = names(
      A + header(b"lie.jpg", size_field=field) + B + END
  )
  assert found == ["a.jpg", "b.jpg"]
  assert damages == ["1536: a size that is not a number"]


LIES = {
    "too long": b"99 path=b.jpg\n",
    "too short": b"5 path=b.jpg\n",
    "not a number": b"xx path=b.jpg\n",
    "zero": b"0 path=b.jpg\n",
    "no value": b"9 pathxx\n",
    "size": b"16 size=minus 1\n",
    "huge size": b"47 size=" + b"9" * 38 + b"\n",
}


@pytest.mark.parametrize("lie", LIES)
def test_pax_records_that_lie_cost_the_member_after_them(lie):
  data = A + member("pax", LIES[lie], kind=b"x") + member("x.jpg") + B + END
  found, counts, damages, _ = names(data)
  assert found == ["a.jpg", "b.jpg"]
  assert counts == {"members after a broken header": 1}
  assert damages == ["1536: pax records that cannot be read"]


def test_an_extended_header_of_many_bytes_is_not_read():
  size = (1 << 20) + 1
  long = header(b"pax", size, b"x") + bytes(size) + bytes(-size % 512)
  found, counts, damages, _ = names(A + long + member("x.jpg") + B)
  assert found == ["a.jpg", "b.jpg"]
  assert counts == {"members after a broken header": 1}
  assert "over 1 MiB" in damages[0]


OTHER = {
    "gzip": (gzip.compress(A), "compressed by gzip: decompress it"),
    "bzip2": (bz2.compress(A), "compressed by bzip2: decompress it"),
    "xz": (lzma.compress(A), "compressed by xz: decompress it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + A, "compressed by zstd: decompress it"),
    "empty": (b"", "an empty file"),
    "short": (b"<html>", "not a tar: shorter than 512 bytes"),
    "HTML": (b"<html>" * 500, "not a tar: it has no valid header"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_not_a_tar_is_named(kind):
  data, problem = OTHER[kind]
  assert names(data) == ([], {}, [], problem)


@pytest.mark.parametrize("gap", [b"?" * 512, bytes(1024)])
def test_no_byte_is_read_many_times(gap):
  class Counted(bytes):
    read = 0

    def __getitem__(self, part):
      found = super().__getitem__(part)
      Counted.read += len(found)
      return found

  data = Counted((gap + A) * 2000)
  assert len(list(scan.walk(data, len(data), scan.Notes()))) == 2000
  assert Counted.read < 3 * len(data)


def test_many_short_pax_records_are_read_in_little_time():
  records = b"5 a=\n" * 200_000
  begin = time.process_time()
  found = names(member("pax", records, kind=b"x") + A)
  assert found == (["a.jpg"], {}, [], "")
  assert time.process_time() - begin < 5


def test_headers_of_other_members_change_the_sum():
  sums = {walk(data)[1].headers for data in (A + B, A + C, B + A, A)}
  assert len(sums) == 4


def test_a_tar_of_lies_takes_neither_time_nor_memory():
  rng = random.Random(0)
  blocks = [
      header(b"a.jpg", size_field=b"\x80" + (1 << 60).to_bytes(11, "big")),
      header(b"pax", 1 << 40, b"x"),
      member("pax", b"1 " * 200, kind=b"x"),
      rng.randbytes(512),
      b"ustar" * 102 + b"ab",
      bytes(512),
  ]
  data = b"".join(rng.choices(blocks, k=1500))
  tracemalloc.start()
  begin = time.process_time()
  members, notes = walk(data)
  seconds = time.process_time() - begin
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert not members and notes.counts["damage"] > 300
  assert len(notes.damages) == 20
  assert seconds < 20 and peak < 4 << 20
