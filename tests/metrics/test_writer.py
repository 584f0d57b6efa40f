"""The writer of metrics: what a killed process leaves, the next repairs."""

import math
import os
import signal
import sys

import events
import fake_wandb
import pytest

from siglip_jax.metrics import lines
from siglip_jax.metrics import writer


@pytest.fixture
def wandb(monkeypatch):
  """The fake module, in the place of the real one."""
  module = fake_wandb.Wandb()
  monkeypatch.setitem(sys.modules, "wandb", module)
  return module


def on_file(workdir):
  """Tag -> points of metrics.jsonl, as TensorBoard would have them."""
  points = {}
  for line in lines.read(workdir):
    for name, value in line.items():
      if name != "step":
        points.setdefault(name, []).append((line["step"], value))
  return points


def start(workdir, step, **options):
  lines.rewind(workdir, step)
  return writer.MetricWriter(workdir, write=True, start=step, **options)


def train(metrics, *steps):
  for step in steps:
    metrics.write(step, {"train/loss": float(step)})
    if step % 5 == 0:
      metrics.write(step, {"top1": step / 64})


def killed(workdir, start_step, *steps, between=()):
  """Trains in a process that is killed, maybe between TensorBoard and file."""
  pid = os.fork()
  if not pid:
    try:
      metrics = start(workdir, start_step)
      train(metrics, *steps)
      if between:
        kill = lambda *unused: os.kill(os.getpid(), signal.SIGKILL)
        writer.lines.append = kill
        train(metrics, *between)
      os.kill(os.getpid(), signal.SIGKILL)
    finally:
      os._exit(1)
  assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_tensorboard_agrees_with_the_file_after_kills(tmp_path):
  killed(tmp_path, 0, 1, 2, 3)
  assert events.scalars(tmp_path) == on_file(tmp_path)
  killed(tmp_path, 0, 1, 2, 3, 4, 5, 6, 7, between=[8])  # before a checkpoint
  assert events.scalars(tmp_path) != on_file(tmp_path)
  killed(tmp_path, 5, 6, between=[10])  # from a checkpoint at 5
  with start(tmp_path, 5) as metrics:
    train(metrics, 6, 7, 8, 9, 10, 11)
  points = on_file(tmp_path)
  assert events.scalars(tmp_path) == points
  assert points["train/loss"] == [(i, i) for i in range(1, 12)]
  assert points["top1"] == [(5, 5 / 64), (10, 10 / 64)]


def test_scores_that_only_tensorboard_has_are_not_doubled(tmp_path):
  first = start(tmp_path, 0)
  train(first, 4)
  first._board.write(4, {"top1": 0.5})  # killed before the file had them
  with start(tmp_path, 4) as second:
    second.write(4, {"top1": 0.5, "bad": math.nan})
  with start(tmp_path, 4):
    points = events.scalars(tmp_path)
  assert math.isnan(points.pop("bad")[0][1])
  assert points == {"train/loss": [(4, 4.0)], "top1": [(4, 0.5)]}
  first.close()


def test_a_process_beside_training_forgets_nothing_of_it(tmp_path, wandb):
  training = start(tmp_path, 0, wandb={"project": "p"})
  train(training, 1, 2, 3)
  beside = writer.MetricWriter(
      tmp_path, write=True, start=None, wandb={"project": "p"}
  )
  beside.write(2, {"late": 1.0})
  train(training, 4)
  assert events.scalars(tmp_path) == {
      "train/loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
  }
  assert events.scalars(tmp_path / writer.EVALS) == {"late": [(2, 1.0)]}
  assert [len(x) for x in on_file(tmp_path).values()] == [4, 1]
  assert [run.options["job_type"] for run in wandb.runs] == ["train", "eval"]
  beside.close()
  training.close()


def test_weights_and_biases_get_what_the_file_gets(tmp_path, wandb):
  section = {"project": "p", "mode": "offline"}
  first = start(tmp_path, 0, wandb=section, config={"lr": 1})
  train(first, 1, 2, 3, 4, 5)
  with pytest.raises(ValueError), start(tmp_path, 3, wandb=section) as metrics:
    train(metrics, 4, 5, 6)
    raise ValueError
  points = {}
  for run in wandb.runs:
    for values in run.logged:
      step = values.pop("step")
      for name, value in values.items():
        points.setdefault(name, []).append((step, value))
  assert points == on_file(tmp_path)
  assert wandb.runs[0].settings == {"lr": 1}
  assert [run.exit_code for run in wandb.runs] == [None, 1]
  first.close()


def test_other_processes_write_nothing(tmp_path):
  other = writer.MetricWriter(tmp_path, write=False, wandb={"project": "p"})
  other.write(1, {"train/loss": 1.0})
  other.close()
  assert not list(tmp_path.iterdir())


def test_a_note_is_a_table_for_tensorboard_alone(tmp_path):
  with writer.MetricWriter(tmp_path, write=True) as w:
    w.note(3, "resumed with", ["optim.lr = 0.1, was 0.2", "seed = 1, was 0"])
    w.note(4, "resumed with", [])
  ((step, text),) = events.texts(tmp_path)
  assert step == 3 and "| `optim.lr = 0.1, was 0.2` |" in text
  assert not (tmp_path / "metrics.jsonl").exists()
  with writer.MetricWriter(tmp_path / "other", write=False) as w:
    w.note(3, "resumed with", ["seed = 1, was 0"])
