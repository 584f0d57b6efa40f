"""The comparison of two runs, by benchmarks/same_runs.py."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

from siglip_jax import metrics


@pytest.fixture(scope="module")
def same_runs():
  spec = importlib.util.spec_from_file_location(
      "same_runs", "benchmarks/same_runs.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "copy")


def edit(workdir, change):
  """Applies a function to the list of lines of metrics.jsonl."""
  path = workdir / "metrics.jsonl"
  lines = [json.loads(text) for text in path.read_text().splitlines()]
  texts = [json.dumps(line) + "\n" for line in change(lines)]
  path.write_text("".join(texts))


def test_a_run_equals_its_copy_but_for_clock_and_memory(
    same_runs, trained, copy
):
  clock = {
      "train/step_seconds": 0.0,
      "train/examples_per_second": 1.0,
      "host/memory_used": 2.0,
  }
  edit(copy, lambda lines: [*lines[:1], lines[1] | clock, *lines[2:]])
  different = same_runs.differences(trained, copy)
  told = different.pop("TensorBoard")  # which the edit left as it was
  assert len(told) == 3 and told[0].startswith("copy: host/memory_used of step")
  assert set(different) == {
      "parameters",
      "lines of training",
      "evaluations",
      "files",
  }
  assert not any(different.values())


def test_lines_that_were_lost_doubled_or_changed_are_told(
    same_runs, trained, copy
):
  def change(lines):
    by_step = [x for x in lines if "train/loss" in x]
    scores = [x for x in lines if "train/loss" not in x]
    assert by_step[2]["step"] == 3
    by_step[4]["train/loss"] = None
    del by_step[2]["data/replaced"]
    scores[1]["zeroshot/colors/top1"] = -1.0
    return [*by_step[1:], by_step[7], scores[0], *scores]

  edit(copy, change)
  different = same_runs.differences(trained, copy)
  assert different["lines of training"] == [
      "step 1: lost",
      "step 3: data/replaced",
      "step 5: train/loss",
      "step 8: twice",
  ]
  assert different["evaluations"] == [
      "step 5 colors: twice",
      "step 10 colors: zeroshot/colors/top1",
  ]
  assert "copy: train/loss of step 1" in different["TensorBoard"]
  assert "copy: train/loss of step 5" in different["TensorBoard"]


def test_a_run_may_have_more_evaluations_at_known_steps(
    same_runs, trained, copy
):
  scores = {"zeroshot/colors/top1": 1.0, "eval/colors/seconds": 1.0}
  check = lambda more: same_runs.differences(trained, copy, more=more)
  metrics.lines.append(copy, 7, scores)
  assert check(set())["evaluations"] == ["step 7 colors: added"]
  assert check({7})["evaluations"] == []
  metrics.lines.append(copy, 7, scores)
  assert check({7})["evaluations"] == ["step 7 colors: twice"]
  # At a step that both evaluate, nothing may differ.
  metrics.lines.append(copy, 5, scores)
  assert check({5, 7})["evaluations"] == [
      "step 5 colors: twice",
      "step 7 colors: twice",
  ]


def test_parameters_are_compared_by_their_bits(same_runs, monkeypatch):
  class Model:

    def __init__(self, **params):
      self.params = params

  models = {
      "one": Model(a=np.zeros(2), b=np.ones(1), c=np.ones(1)),
      "other": Model(a=-np.zeros(2), b=np.ones(1), d=np.ones(1)),
  }
  monkeypatch.setattr("siglip_jax.load", models.get)
  assert same_runs.parameters("one", "other") == ["a", "c", "d"]


def test_files_that_a_kill_left_are_told(same_runs, trained, copy):
  (copy / "lock.json").touch()
  (copy / "config.1.json").touch()
  (copy / "events.out.tfevents.1").touch()
  (copy / "report.html").unlink()
  assert same_runs.files(trained, copy) == [
      "config.1.json",
      "lock.json",
      "report.html",
  ]


def test_events_are_read_as_tensorboard_shows_them(same_runs, tmp_path):
  first = metrics.board.Board(tmp_path, purge=0)
  for step in (1, 2, 3):
    first.write(step, {"a@b": float(step)})
  second = metrics.board.Board(tmp_path, purge=2)
  second.write(2, {"a@b": 5.0})
  assert same_runs.events(tmp_path) == {("a_b", 1): 1.0, ("a_b", 2): 5.0}
  path = sorted(tmp_path.iterdir())[-1]
  path.write_bytes(path.read_bytes()[:-3])  # killed while it wrote
  assert same_runs.events(tmp_path) == {("a_b", 1): 1.0}
  first.close()
  second.close()
