"""metrics.jsonl: whole lines, by several processes, rewound without loss."""

import json
import os
import threading

import pytest

from siglip_jax.metrics import lines


def write(workdir, steps):
  for step in steps:
    lines.append(workdir, step, {"train/loss": float(step)})


def steps(workdir):
  return [line["step"] for line in lines.read(workdir)]


def test_values_that_are_not_finite_are_null(tmp_path):
  values = {"train/loss": float("nan"), "a": float("inf"), "b": 0.5}
  lines.append(tmp_path, 3, values)
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == '{"step": 3, "train/loss": null, "a": null, "b": 0.5}\n'


def test_rewind_drops_later_steps_and_a_cut_line(tmp_path):
  write(tmp_path, [10, 20, 30])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 40, "train/lo')
  assert lines.rewind(tmp_path, 20) == 2
  write(tmp_path, [30])
  assert steps(tmp_path) == [10, 20, 30]
  assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == (
      [10, 20, 30]
  )
  assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_rewind_touches_nothing_if_there_is_nothing_to_drop(tmp_path):
  write(tmp_path, [10, 20])
  before = (tmp_path / "metrics.jsonl").stat()
  assert lines.rewind(tmp_path, 20) == 0
  after = (tmp_path / "metrics.jsonl").stat()
  assert (after.st_ino, after.st_mtime_ns) == (
      before.st_ino,
      before.st_mtime_ns,
  )


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for tail, left in (('{"step": 10, "a": 1}', [10, 20]), ('{"step": 1', [20])):
    path.write_text(tail)
    write(tmp_path, [20])
    assert steps(tmp_path) == left


def test_crash_while_rewinding_leaves_the_old_file(tmp_path, monkeypatch):
  write(tmp_path, [10, 20])

  def crash(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", crash)
  with pytest.raises(KeyboardInterrupt):
    lines.rewind(tmp_path, 10)
  assert steps(tmp_path) == [10, 20]


def test_scores_at_the_step_stay_and_tell_who_evaluated(tmp_path):
  for step in (10, 20):
    lines.append(tmp_path, step, {"train/loss": 1.0})
    scores = {"zeroshot/a/top1": 0.5, "eval/first/seconds": 2.0}
    lines.append(tmp_path, step, scores)
  lines.append(tmp_path, 10, {"eval/late/seconds": 2.0})
  assert lines.rewind(tmp_path, 10) == 2
  history = lines.read(tmp_path)
  assert lines.evaluated(history, 10) == {"first", "late"}
  assert not lines.evaluated(history, 20)
  assert lines.evaluated([], 10) == set()


def test_lines_are_read_by_step_and_else_in_the_files_order(tmp_path):
  for step, value in ((10, 1), (20, 2), (10, 3), (5, 4)):
    lines.append(tmp_path, step, {"a": value})
  read = [(line["step"], line["a"]) for line in lines.read(tmp_path)]
  assert read == [(5, 4), (10, 1), (10, 3), (20, 2)]


def test_lines_without_a_step_are_not_lines(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": "1"}\n[1]\n7\n{"a": 1}\n')
  assert lines.read(tmp_path) == []
  assert lines.rewind(tmp_path, 5) == 4


def test_nothing_to_read_or_rewind(tmp_path):
  assert lines.read(tmp_path) == []
  assert lines.rewind(tmp_path, 5) == 0
  assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path, monkeypatch):
  real = os.write
  monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:9]))
  with pytest.raises(OSError, match="No space left"):
    write(tmp_path, [1])


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_another_processs_lines_survive_rewinds(tmp_path):
  """It appends scores of step 1 while this process rewinds and goes on."""
  pid = os.fork()
  if not pid:
    try:
      for i in range(150):
        lines.append(tmp_path, 1, {"a": i})
      os._exit(0)
    finally:
      os._exit(1)
  rewinds = 0
  while os.waitpid(pid, os.WNOHANG) == (0, 0):
    write(tmp_path, [2])
    rewinds += lines.rewind(tmp_path, 1)
  lines.rewind(tmp_path, 1)
  assert rewinds > 3
  assert [line["a"] for line in lines.read(tmp_path)] == list(range(150))


def test_a_lock_that_is_never_released_does_not_stop_a_run(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(lines, "_LOCK_SECONDS", 0.05)
  write(tmp_path, [1])
  with lines._opened(tmp_path / "metrics.jsonl"):
    other = threading.Thread(target=write, args=(tmp_path, [2]))
    other.start()
    other.join(20)
    assert steps(tmp_path) == [1, 2]


def test_scores_that_somebody_asked_for_are_not_the_runs(tmp_path):
  lines.append(tmp_path, 5, {"x": 1.0, "eval/e/seconds": 1.0, lines.ASKED: 1.0})
  lines.append(tmp_path, 5, {"x": 2.0})
  assert [line["x"] for line in lines.read(tmp_path)] == [1.0, 2.0]
  assert [line["x"] for line in lines.read_own(tmp_path)] == [2.0]
  assert not lines.evaluated(lines.read_own(tmp_path), 5)
