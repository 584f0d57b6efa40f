"""The folder of a run: which files it keeps, by which names."""

import json
import os
from pathlib import Path
import shutil

import fakes
import pytest
import small_embeddings

import siglip_jax
from siglip_jax import workdir as workdir_lib
from siglip_jax.data.embeddings import TOWER
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError

DATA = Path("tests/fixtures").absolute()
SENTENCEPIECE, JSON = DATA / "small.model", DATA / "gemma_tokenizer.json"


@pytest.fixture
def config():
  return fakes.tiny(Path("images"), Path("t.model"))


@pytest.fixture
def embedded(tmp_path, config):
  """Embeddings with their tower."""
  found = small_embeddings.write(tmp_path / "embedded", config)
  (found.folder / TOWER).write_bytes(b"a tower")
  return found


def names(folder):
  return {p.name for p in folder.iterdir()}


def test_a_workdir_is_made_and_left_empty(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  workdir = workdir_lib.prepare("~/runs/new", 3)
  assert workdir == tmp_path / "runs" / "new" and not names(workdir)
  (workdir / "mine").write_text("mine")
  assert workdir_lib.prepare(str(workdir), 0) == workdir
  assert names(workdir) == {"mine"}


def test_a_workdir_that_cannot_be_written_to_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  match = "must be a folder that can be written to: .*file .File exists"
  with pytest.raises(UserError, match=match):
    workdir_lib.prepare(tmp_path / "file", 0)
  with pytest.raises(UserError, match="got gs://bucket/run. Mount the bucket"):
    workdir_lib.prepare("gs://bucket/run", 0)


def test_what_a_run_writes_first_or_last_makes_a_workdir(tmp_path):
  assert not workdir_lib.is_workdir(tmp_path)
  (tmp_path / "config.json").write_text("{}")
  assert workdir_lib.is_workdir(tmp_path)
  (tmp_path / "config.json").unlink()
  (tmp_path / "checkpoints").mkdir()
  assert workdir_lib.is_workdir(tmp_path)


def test_what_is_written_is_read_back(config, tmp_path):
  workdir_lib.write_config(config, tmp_path)
  again = workdir_lib.read_config(tmp_path)
  assert again.model.image == config.model.image
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "content, match",
    [
        (None, "holds no config.json: expected the --workdir of a run"),
        (b'{"seed": 0', "config.json is damaged: .* writes it again"),
        (b"\xff", "config.json is damaged"),
        (b"[]", "not the config of a run .* expected the keys seed, total_s"),
        (b'{"model_type": "siglip"}', "not the config of a run"),
    ],
)
def test_a_config_that_is_not_a_runs_is_named(tmp_path, content, match):
  if content is not None:
    (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=match):
    workdir_lib.read_config(tmp_path)


@pytest.mark.parametrize(
    "source, name",
    [(SENTENCEPIECE, "tokenizer.model"), (JSON, "tokenizer.json")],
)
@pytest.mark.parametrize("given", ["a.model", "a.json", "c4_en"])
def test_a_tokenizer_is_kept_under_its_true_name(tmp_path, source, name, given):
  (tmp_path / "elsewhere").mkdir()
  workdir = tmp_path / "run"
  workdir.mkdir()
  for old in ("tokenizer.model", "tokenizer.json"):
    (workdir / old).write_text("another")
  path = shutil.copyfile(source, tmp_path / "elsewhere" / given)
  tokenizer = Tokenizer(path)
  workdir_lib.keep_tokenizer(tokenizer, workdir)
  (other,) = {"tokenizer.model", "tokenizer.json"} - {name}
  assert (workdir / other).read_text() == "another"  # perhaps somebody's own
  kept = workdir_lib.tokenizer_path(workdir, tokenizer.digest)
  assert kept == workdir / name
  assert kept.read_bytes() == source.read_bytes()


def test_a_workdir_without_a_tokenizer_names_the_one_it_lacks(tmp_path):
  path = workdir_lib.tokenizer_path(tmp_path, "0" * 64)
  with pytest.raises(UserError, match="no tokenizer .*/tokenizer.model"):
    Tokenizer(path)


def test_an_older_workdir_loads_whose_json_is_called_a_model(trained, tmp_path):
  workdir = shutil.copytree(trained, tmp_path / "run")
  old = shutil.copyfile(JSON, workdir / "tokenizer.model")
  digest = Tokenizer(JSON).digest
  newest = workdir / "checkpoints" / "12"
  shutil.rmtree(newest / "about")  # checksums of what is changed here
  spec = newest / "spec" / "metadata"
  content = json.loads(spec.read_text()) | {"tokenizer_digest": digest}
  spec.write_text(json.dumps(content))
  assert siglip_jax.load(workdir).spec["tokenizer_digest"] == digest
  # The run's next start, whose config may name the old file, keeps both.
  workdir_lib.keep_tokenizer(Tokenizer(old), workdir)
  kept = [workdir / name for name in ("tokenizer.model", "tokenizer.json")]
  assert workdir_lib.tokenizer_path(workdir, digest) in kept
  assert {path.read_bytes() for path in kept} == {JSON.read_bytes()}
  assert siglip_jax.load(workdir).spec["tokenizer_digest"] == digest


def test_a_tower_is_linked_and_where_that_cannot_be_copied(
    embedded, tmp_path, monkeypatch
):
  def cannot(*_):
    raise OSError("another file system")

  original = embedded.folder / TOWER
  for name in ("linked", "copied"):
    if name == "copied":
      monkeypatch.setattr(os, "link", cannot)
    workdir = tmp_path / name
    workdir.mkdir()
    for _ in range(2):  # at the next start it is there
      workdir_lib.keep_tower(embedded, workdir)
      assert names(workdir) == {TOWER}
    assert (workdir / TOWER).read_bytes() == b"a tower"
    assert (workdir / TOWER).samefile(original) == (name == "linked")
  original.unlink()
  assert (tmp_path / "linked" / TOWER).read_bytes() == b"a tower"


def test_a_tower_that_was_kept_may_be_gone_from_the_embeddings(
    embedded, tmp_path
):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (embedded.folder / TOWER).rename(workdir / TOWER)
  workdir_lib.keep_tower(embedded, workdir)
  assert (workdir / TOWER).read_bytes() == b"a tower"
  (workdir / TOWER).unlink()
  with pytest.raises(UserError, match="embedded/tower.npz is missing: the tow"):
    workdir_lib.keep_tower(embedded, workdir)
  assert not names(workdir)


def test_each_config_of_a_run_is_kept(config, tmp_path):
  rates = (0.1, 0.1, 0.2, 0.1)
  numbers = []
  for lr in rates:
    config.optim.lr = lr
    numbers.append(workdir_lib.write_config(config, tmp_path))
  assert numbers == [1, 1, 2, 3]
  kept = {
      path.name: json.loads(path.read_text())["optim"]["lr"]
      for path in tmp_path.iterdir()
  }
  assert kept == {
      "config.json": 0.1,
      "config.1.json": 0.1,
      "config.2.json": 0.2,
  }


def test_a_kill_between_two_moves_does_not_keep_a_config_twice(
    config, tmp_path
):
  workdir_lib.write_config(config, tmp_path)
  shutil.copyfile(tmp_path / "config.json", tmp_path / "config.1.json")
  config.optim.lr = 0.5
  assert workdir_lib.write_config(config, tmp_path) == 2
  assert names(tmp_path) == {"config.json", "config.1.json"}


def test_starts_are_listed_but_for_one_cut_short(tmp_path):
  assert workdir_lib.read_starts(tmp_path) == []
  workdir_lib.note_start(tmp_path, {"step": 0, "changed": []})
  with (tmp_path / "starts.jsonl").open("a") as f:
    f.write('{"step": 5, "cha')
  workdir_lib.note_start(tmp_path, {"step": 9, "changed": ["seed = 1, was 0"]})
  assert [s["step"] for s in workdir_lib.read_starts(tmp_path)] == [0, 9]
