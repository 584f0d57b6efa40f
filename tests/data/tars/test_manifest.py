"""The manifest: numbers of samples without their tables, checked when read."""

import json

import numpy as np
import pytest

from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.errors import UserError

FULL, BARE = ("jpg", "json", "txt"), ("jpg", "json")


def header(name: str, groups, layouts=(FULL, BARE), **more):
  return {
      "shard": name,
      "bytes": 1000,
      "etag": "",
      "samples": sum(a + b for _, a, b in groups),
      "groups": groups,
      "layouts": [list(layout) for layout in layouts],
      "columns": [],
      "suffixes": {"jpg": 3},
      "counts": {"hard links": 1},
      "problem": "",
      "damages": [],
  } | more


@pytest.fixture
def manifest():
  headers = [
      header("0.tar", [(0, 90, 10), (1, 5, 0)]),
      header("1.tar", [(0, 7, 1)], [BARE], damages=[(512, "cut")]),
      header("2.tar", [(0, 40, 2)], [FULL], problem="an empty file"),
  ]
  return manifest_lib.of_headers([(h, "d") for h in headers], ("jpg",))


def test_lengths_are_those_of_layouts_and_splits(manifest):
  lengths = lambda *a: manifest.lengths(*a).tolist()
  assert lengths({FULL, BARE}, "all") == [105, 8, 42]
  assert lengths({FULL}, "train") == [90, 0, 40]
  assert lengths({BARE}, "validation") == [0, 1, 0]
  assert lengths(set(), "all") == [0, 0, 0]
  assert manifest.of_layout() == {FULL: 142, BARE: 13}


def test_oddities_of_all_shards_add_up(manifest):
  assert manifest.counts == {"hard links": 3}
  assert manifest.suffixes == {"jpg": 9}
  assert manifest.problems == [
      ("1.tar", 512, "cut"),
      ("2.tar", 0, "an empty file"),
  ]


def test_a_manifest_is_the_same_after_its_file(manifest):
  content = manifest_lib.encode(manifest)
  again = manifest_lib.decode(content, "m")
  assert manifest_lib.encode(again) == content
  assert again.layouts == [FULL, BARE]
  np.testing.assert_array_equal(again.groups, manifest.groups)


BAD = {
    "changed": lambda w: w["samples"].__setitem__(0, 7),
    "another format": lambda w: w.update(format="webdataset"),
    "a later version": lambda w: w.update(version=2),
    "incomplete": lambda w: w.pop("names"),
}


@pytest.mark.parametrize("kind", BAD)
def test_another_file_is_refused(kind, manifest):
  words = json.loads(manifest_lib.encode(manifest))
  BAD[kind](words)
  with pytest.raises(UserError, match="DIR/manifest.json must be .*index"):
    manifest_lib.decode(json.dumps(words).encode(), "DIR/manifest.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'"x"', b"\xff"])
def test_what_is_no_json_object_is_refused(content):
  with pytest.raises(UserError, match="must be the manifest of an index"):
    manifest_lib.decode(content, "m")


def test_no_file_is_no_manifest(tmp_path):
  assert manifest_lib.read(str(tmp_path)) is None


@pytest.mark.parametrize(
    "paths, base, names",
    [
        (["a/0.tar", "a/1.tar"], "a", ["0.tar", "1.tar"]),
        (["/x/a/0.tar", "/x/b/0.tar"], "/x", ["a/0.tar", "b/0.tar"]),
        (["gs://b/0.tar"], "gs://b", ["0.tar"]),
        (["0.tar", "a/1.tar"], "", ["0.tar", "a/1.tar"]),
    ],
)
def test_names_are_within_the_deepest_folder(paths, base, names):
  assert manifest_lib.within(paths) == (base, names)


def test_files_of_shards_in_folders_are_in_one():
  assert manifest_lib.file_name("a/b c.tar") == "a%2Fb%20c.tar.idx"
  assert manifest_lib.joined("gs://b/x/", "m") == "gs://b/x/m"
