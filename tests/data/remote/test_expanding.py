"""Patterns find files on disks and in buckets, or say why not."""

import types

import huggingface_hub
import pytest
import servers

from siglip_jax.data.remote.expanding import expand
from siglip_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """A bucket with shards, and what lies beside them."""
  bucket = tmp_path / "bucket"
  for name in ("a/0.tar", "a/1.tar", "a/1.json", "b/0.tar", "top.tar"):
    (bucket / name).parent.mkdir(parents=True, exist_ok=True)
    (bucket / name).write_bytes(name.encode())
  return tmp_path


PATTERNS = {
    "a/*.tar": ["a/0.tar", "a/1.tar"],
    "*/0.tar": ["a/0.tar", "b/0.tar"],
    "*/?.tar": ["a/0.tar", "a/1.tar", "b/0.tar"],
    "*.tar": ["top.tar"],
    "{b,a}/*.tar": ["a/0.tar", "a/1.tar", "b/0.tar"],
    "a/{0..1}.tar": ["a/0.tar", "a/1.tar"],
    "a/1.json": ["a/1.json"],
}


@pytest.mark.parametrize("scheme", ["s3", "gs", "local"])
def test_patterns_find_the_same_files_everywhere(folder, scheme, monkeypatch):
  start = f"{folder}/bucket" if scheme == "local" else f"{scheme}://bucket"
  with servers.buckets(folder, monkeypatch):
    for pattern, names in PATTERNS.items():
      assert expand(f"{start}/{pattern}") == [f"{start}/{n}" for n in names]


def test_several_patterns_give_each_file_once_in_order(folder):
  start = f"{folder}/bucket"
  paths = expand([f"{start}/b/*", f"{start}/a/1.*", f"{start}/*/0.tar"])
  names = ["a/0.tar", "a/1.json", "a/1.tar", "b/0.tar"]
  assert paths == [f"{start}/{name}" for name in names]


def test_names_with_the_signs_of_patterns_are_read_as_they_are(tmp_path):
  path = tmp_path / "my[1]{x}*.tar"
  path.touch()
  assert expand(str(path)) == [str(path)]


def test_the_hub_lists_repositories(monkeypatch):
  asked = []

  def tree(self, name, *, path_in_repo, revision, repo_type):
    asked.append((name, path_in_repo, revision, repo_type))
    path = f"{path_in_repo}/train-1.parquet"
    folder = types.SimpleNamespace(path=f"{path_in_repo}/train-2")
    return [huggingface_hub.RepoFile(path=path, size=3, oid="0"), folder]

  monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", tree)
  start = "hf://datasets/me/set@v2/data"
  assert expand(f"{start}/train-*") == [f"{start}/train-1.parquet"]
  assert asked == [("me/set", "data", "v2", "dataset")]


@pytest.mark.parametrize(
    "pattern, reason",
    [
        ("{}/bucket/*.zip", "finds none"),
        ("{}/bucket/a", "a folder, which holds 1 .json, 2 .tar"),
        ("pipe:cat a.tar", "pipe: commands"),
        ("a.tar::b.tar", ":: between paths"),
        ("ftp://host/a.tar", "gs://, s3://, hf://"),
        ("https://host/*.tar", "does not list its files"),
        ("https://host/a.tar?key=1", "without ? and #"),
        ("s3://b*/a.tar", "not of buckets"),
        ("s3://bucket", "must have a name"),
        ("hf://datasets/only/x", "hf://datasets/OWNER/NAME/PATH"),
        ("{}/{{1..", "not closed"),
        ([], "the list is empty"),
    ],
)
def test_a_pattern_that_cannot_work_is_an_error(folder, pattern, reason):
  if isinstance(pattern, str):
    pattern = pattern.replace("{}", str(folder)).replace("{{", "{")
  with pytest.raises(UserError) as error:
    expand(pattern)
  assert reason in str(error.value)


def test_a_bucket_that_cannot_be_listed_is_an_error(folder, monkeypatch):
  with servers.buckets(folder, monkeypatch):
    with pytest.raises(UserError, match="missing/.* finds none"):
      expand("s3://bucket/missing/*.tar")
