"""What the preflight finds wrong, and whom it names."""

import shutil

import fakes
import jax
import ml_collections
import numpy as np
import pytest

from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError
from siglip_jax.evals.retrieval import Retrieval
from siglip_jax.evals.zeroshot import Zeroshot
from siglip_jax.preflight import checks
from siglip_jax.run import Run

SOURCE = fakes.ListSource([{"text": "a"}] * 5)


def retrieval(*texts):
  source = fakes.ListSource([{"text": t} for t in texts])
  return Retrieval(dataset="captions", source=source, texts=texts)


def check(*args):
  return checks.check(
      *args,
      evaluators={"captions": retrieval("a", "b")},
      tokenizer_digest="0a1b",
  )


class Two(fakes.BoardPeers):
  """This process and one whose words differ as told."""

  def __init__(self, index=0, **different):
    super().__init__({}, index, 2)
    self._different = different

  def gather(self, topic, value, *, seconds):
    if topic == "preflight":
      other = value | {"host": "other-host"} | self._different
    else:
      other = self._different.get(topic, value)
    return [value, other] if self.index == 0 else [other, value]


@pytest.fixture
def run():
  """As much of a Run as a preflight looks at: 1 KiB of state."""
  config = ml_collections.ConfigDict({"ckpt": {"keep": 2}})
  run = Run.__new__(Run)
  run.config = config
  run.state_shapes = {"x": jax.ShapeDtypeStruct((16, 16), np.float32)}
  return run


def test_all_well_is_what_each_process_found(run, tmp_path):
  mine, other = check(run, SOURCE, tmp_path, Two())
  assert (mine["examples"], other["host"]) == (5, "other-host")
  assert mine["code"] == checks.code_digest() == other["code"]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "different, words",
    [
        ({"code": "0123"}, "the same code; .* on worker 1 .other-host"),
        ({"config": "0123"}, "the same config; .* on worker 1 .other-host"),
        ({"examples": 4}, r"training data .*got 5, but 4 on worker 1"),
        (
            {"tokenizer": "0a1c"},
            "same tokenizer; .*0a1c. on worker 1 .other-host",
        ),
        (
            {"data": "0123"},
            r"training data; copy .* keys and texts.* on worker 1 .other-host",
        ),
        (
            {"config.evals.captions": "0123"},
            "same data for config.evals.captions; .* on worker 1 .other-host",
        ),
        ({"token_seen": False}, "not seen by worker 1 .other-host"),
    ],
)
def test_a_worker_that_differs_is_named(run, tmp_path, different, words):
  with pytest.raises(UserError, match=words):
    check(run, SOURCE, tmp_path, Two(**different))
  assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_not_shared_is_refused(run, tmp_path, monkeypatch):
  monkeypatch.setattr(checks, "_TOKEN_SECONDS", 0.2)
  with pytest.raises(UserError, match="that all share.*not seen by worker 1"):
    # What worker 0 wrote is on another disk.
    peers = Two(index=1, token=".preflight_0", token_seen=True)
    check(run, SOURCE, tmp_path, peers)


def test_too_little_room_names_what_is_missing(run, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  for free, saved, enough in (
      (3072, 0, True),
      (3071, 0, False),
      (1024, 2, True),
  ):
    monkeypatch.setattr(
        checks.shutil, "disk_usage", lambda _, f=free: usage._replace(free=f)
    )
    for step in range(saved):
      (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    if enough:
      check(run, SOURCE, tmp_path, Two())
    else:
      with pytest.raises(UserError, match="must have room for"):
        check(run, SOURCE, tmp_path, Two())


@pytest.mark.parametrize(
    "error",
    [
        OSError("Stale file handle"),
        FileNotFoundError(2, "Stale file handle"),
        ImageError("Stale file handle"),
        UserError("Stale file handle."),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "Stale file handle"),
    ],
)
def test_data_that_cannot_be_read_are_said_so(run, tmp_path, error):
  class Gone(fakes.ListSource):

    def __getitem__(self, index):
      raise error

  with pytest.raises(UserError, match="record 0, .*Stale file handle\\)\\.$"):
    check(run, Gone([1]), tmp_path, Two())


def test_there_must_be_data(run, tmp_path):
  with pytest.raises(UserError, match="empty"):
    check(run, fakes.ListSource([]), tmp_path, Two())


def test_the_digest_of_an_evaluation_follows_all_that_it_compares():
  digest = checks.eval_digest
  before = digest(retrieval("a", "b"))
  assert digest(retrieval("a", "b")) == before
  assert digest(retrieval("a", "c")) != before
  assert digest(retrieval("a", "b", "c")) != before

  def zeroshot(names, labels):
    source = fakes.ListSource([{"label": 0}] * 2)
    return Zeroshot(
        dataset="d", source=source, class_names=names, labels=labels
    )

  digests = {
      digest(zeroshot(*args))
      for args in (
          (["a", "b"], [0, 1]),
          (["b", "a"], [0, 1]),
          (["a", "b"], [1, 0]),
          (["a", "b", "c"], [0, 1]),
      )
  }
  assert len(digests) == 4


def test_digests_follow_what_they_are_of(tmp_path, monkeypatch):
  config = ml_collections.ConfigDict({"a": 1, "b": {"c": (1, 2)}})
  before = checks.config_digest(config)
  assert before == checks.config_digest(config.copy_and_resolve_references())
  config.b.c = (1, 3)
  assert checks.config_digest(config) != before

  (tmp_path / "a.py").write_text("x = 1\n")
  file = tmp_path / "preflight" / "checks.py"
  monkeypatch.setattr(checks, "__file__", str(file))
  before = checks.code_digest()
  (tmp_path / "a.py").write_text("x = 2\n")
  assert checks.code_digest() != before
