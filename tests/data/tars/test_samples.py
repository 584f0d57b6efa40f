"""Members become samples by their keys, wherever they lie."""

import hashlib

import hand_tars
from hand_tars import END
from hand_tars import member
from hand_tars import sample
import numpy as np
import pytest

from siglip_jax.data.tars import samples as samples_lib
from siglip_jax.data.tars import scan

IMAGE = ("jpg", "png")


def group(data: bytes, image=IMAGE):
  notes = scan.Notes()
  walk = scan.walk(data, len(data), notes)
  return samples_lib.group(walk, notes, image), notes


def contents(data: bytes, image=IMAGE):
  """Each sample as its key and its parts, read where the table says."""
  samples, notes = group(data, image)
  table, found = samples.table, []
  for row, key in enumerate(samples.keys):
    layout = table.layouts[table.layout[row]]
    places = table.parts(row)[: len(layout)]
    offsets = table.offsets([row])[0, : len(layout)].tolist()
    assert offsets == [at for at, _ in places]
    parts = {
        s: data[at : at + n] for s, (at, n) in zip(layout, places, strict=True)
    }
    found.append((key.decode(), parts))
  return found, {k: n for k, n in notes.counts.items() if k != "damage"}


def test_the_parts_of_a_sample_are_found():
  found, counts = contents(hand_tars.tar(0, 7))
  assert [key for key, _ in found] == ["000000000", "000000007"]
  assert found[1][1]["txt"] == b"text 7"
  assert found[1][1]["jpg"] == b"image of " + b"000000007" * 20
  assert list(found[0][1]) == ["jpg", "json", "txt"] and not counts


def test_members_sorted_by_type_are_brought_together():
  parts = [
      [member(f"{k}.{s}", f"{k}{s}".encode()) for k in "abcd"]
      for s in ("jpg", "json", "txt")
  ]
  found, counts = contents(b"".join(sum(parts, [])) + END)
  assert [(k, p["jpg"] + p["json"] + p["txt"]) for k, p in found] == [
      (k, f"{k}jpg{k}json{k}txt".encode()) for k in "abcd"
  ]
  assert not counts


AWKWARD = {
    "missing txt": (sample("a", txt=None), [("a", "jpg json")], {}),
    "missing jpg": (sample("a", jpg=None), [], {"samples without an image": 1}),
    "empty jpg": (
        sample("a", jpg=b""),
        [],
        {"samples with an image of zero bytes": 1},
    ),
    "empty txt": (sample("a", txt=b""), [("a", "jpg json")], {}),
    "empty json": (sample("a", json=b""), [("a", "jpg txt")], {}),
    "duplicates side by side": (
        sample("a", 1) + sample("a", 2),
        [("a", "jpg json txt")] * 2,
        {"keys that come again": 1},
    ),
    "duplicates apart": (
        sample("a", 1) + sample("b") + sample("a", 2),
        [(k, "jpg json txt") for k in "aba"],
        {"keys that come again": 1},
    ),
    "duplicates sorted by type": (
        b"".join(member(f"{k}.jpg") for k in "abac")
        + b"".join(member(f"{k}.txt") for k in "abac"),
        [("a", "jpg"), ("b", "jpg txt"), ("a", "jpg"), ("c", "jpg txt")],
        {"keys that come again": 3, "samples without an image": 2},
    ),
    "two dots": (
        member("photo.v2.jpg") + member("photo.txt"),
        [],
        {"samples without an image": 1},
    ),
    "upper case": (member("a.JPG") + member("a.Txt"), [("a", "jpg txt")], {}),
    "a second image": (
        member("a.png") + member("a.jpg") + member("a.txt"),
        [("a", "png jpg txt")],
        {},
    ),
    "GIF": (
        member("a.gif") + member("a.txt"),
        [],
        {"samples without an image": 1},
    ),
    "label": (member("a.jpg") + member("a.cls", b"3"), [("a", "jpg cls")], {}),
    "unicode": (sample("düne 🏜"), [("düne 🏜", "jpg json txt")], {}),
    "folders": (
        sample("x/y/a") + sample("x/z/a"),
        [("x/y/a", "jpg json txt"), ("x/z/a", "jpg json txt")],
        {},
    ),
    "dot slash": (
        member("./a.jpg") + member("a.txt") + member(".//b.jpg"),
        [("a", "jpg txt"), ("b", "jpg")],
        {},
    ),
    "dots in a folder": (
        member("v1.0/a.jpg") + member("v1.0/a.txt"),
        [("v1.0/a", "jpg txt")],
        {},
    ),
    "absolute": (sample("/etc/a"), [], {"absolute names": 3}),
    "upwards": (
        sample("../a") + sample("x/../../a"),
        [],
        {"names with '..'": 6},
    ),
    "two dots within a name": (
        member("a..jpg"),
        [],
        {"samples without an image": 1},
    ),
    "macOS": (
        member("__MACOSX/._a.jpg") + member("x/._a.jpg") + member("._a.txt"),
        [],
        {"files of macOS": 3},
    ),
    "hidden": (
        member(".DS_Store") + member("README"),
        [],
        {"names without a key or a suffix": 2},
    ),
    "long name": (
        hand_tars.gnu_long("d" * 150 + "/a.jpg")
        + member("x", b"1")
        + hand_tars.pax({"path": "d" * 150 + "/a.txt"})
        + member("x", b"2"),
        [("d" * 150 + "/a", "jpg txt")],
        {},
    ),
    "link among the parts": (
        member("a.jpg") + member("a.json", b"", kind=b"2") + member("a.txt"),
        [("a", "jpg txt")],
        {"symbolic links": 1},
    ),
    "many parts": (
        b"".join(member(f"a.{i}.jpg") for i in range(40)) + sample("b"),
        [("b", "jpg json txt")],
        {"samples of more than 32 parts": 1},
    ),
    "a part of 2 GB": (
        member("a.jpg") + hand_tars.header(b"a.npy", 1 << 31),
        [("a", "jpg")],
        {"parts over 2 GB": 1},
    ),
    "a long suffix": (
        member("a.jpg") + member("a." + "x" * 65),
        [("a", "jpg")],
        {"suffixes that are too many or too long": 1},
    ),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_every_awkward_tar_has_its_outcome(kind):
  data, expected, counts = AWKWARD[kind]
  if kind == "a part of 2 GB":
    notes = scan.Notes()
    samples = samples_lib.group(
        [(b"a.jpg", 0, 512, 9), (b"a.npy", 1024, 1536, 1 << 31)], notes, IMAGE
    )
    assert samples.table.layouts == [("jpg",)] and notes.counts == counts
    return
  found, noted = contents(data + END)
  assert [(key, " ".join(parts)) for key, parts in found] == expected
  assert noted == counts


def test_duplicates_keep_their_own_parts():
  found, _ = contents(sample("a", 1) + sample("b", 5) + sample("a", 2) + END)
  assert [parts["txt"] for _, parts in found] == [
      b"text 1",
      b"text 5",
      b"text 2",
  ]


def test_long_names_between_parts_are_no_part_of_them():
  data = (
      hand_tars.gnu_long("d" * 150 + "/a.jpg")
      + member("x", b"1" * 600)
      + member("skipped", b"2" * 700)
      + hand_tars.gnu_long("d" * 150 + "/a.txt")
      + member("x", b"3" * 100)
      + member("b.jpg", b"4")
  )
  found, _ = contents(data)
  assert found[0][1] == {"jpg": b"1" * 600, "txt": b"3" * 100}
  assert found[1][1] == {"jpg": b"4"}


def test_a_twentieth_by_the_hash_of_the_key_is_validation():
  samples, _ = group(hand_tars.tar(*range(300)))
  expected = [hashlib.sha256(k).digest()[0] < 256 / 20 for k in samples.keys]
  assert samples.table.validation.tolist() == expected
  assert 5 <= sum(expected) <= 30


def test_suffixes_of_all_members_are_counted():
  samples, _ = group(hand_tars.tar(0, 1) + member("z.v2.jpg") + END, ("png",))
  assert samples.suffixes == {"jpg": 2, "json": 2, "txt": 2, "v2.jpg": 1}
  assert len(samples.table) == 0 and samples.table.sizes.shape == (0, 0)


def test_layouts_and_suffixes_of_a_hostile_tar_are_limited():
  members = [
      (f"{i}.{suffix}".encode(), 0, 512, 5)
      for i in range(3000)
      for suffix in ("jpg", f"s{i}")
  ]
  notes = scan.Notes()
  samples = samples_lib.group(members, notes, IMAGE)
  assert len(samples.table.layouts) == 255
  left = notes.counts["samples of further layouts than 255"]
  assert left + len(samples.table) == 3000
  assert notes.counts["suffixes that are too many or too long"] == 2001
  assert np.max(samples.table.layout) == 254


def test_parts_are_shown_as_they_come():
  shown = []
  data = hand_tars.tar(4, 5)
  notes = scan.Notes()
  samples_lib.group(
      scan.walk(data, len(data), notes),
      notes,
      IMAGE,
      lambda number, suffix, at, n: bool(
          shown.append((number, suffix, data[at : at + n]))
      ),
  )
  assert [s[:2] for s in shown] == [
      (number, suffix) for number in (0, 1) for suffix in ("jpg", "json", "txt")
  ]
  assert shown[5][2] == b"text 5"


def test_a_part_may_spoil_its_sample_alone():
  data = hand_tars.sample("a", 1) + hand_tars.tar(4, 5)
  notes = scan.Notes()
  samples = samples_lib.group(
      scan.walk(data, len(data), notes),
      notes,
      IMAGE,
      lambda number, suffix, at, n: number == 1 and suffix == "json",
  )
  assert samples.keys == [b"a", b"000000005"] and samples.rows == [0, 2]
