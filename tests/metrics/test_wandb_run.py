"""A W&B run over restarts: one id, no step twice, and never in the way."""

import json
import sys
import time

import fake_wandb
import pytest

from siglip_jax.errors import UserError
from siglip_jax.metrics import wandb_run


@pytest.fixture
def wandb(monkeypatch):
  """The fake module, in the place of the real one."""
  module = fake_wandb.Wandb()
  monkeypatch.setitem(sys.modules, "wandb", module)
  return module


def start(workdir, config=None, beside=False, **options):
  return wandb_run.WandbRun(
      workdir, config or {}, beside=beside, **{"project": "p"} | options
  )


def logged(wandb):
  return [
      (values["step"], name, value)
      for run in wandb.runs
      for values in run.logged
      for name, value in values.items()
      if name != "step"
  ]


def test_a_restart_continues_the_run_and_sends_no_step_twice(wandb, tmp_path):
  first = start(tmp_path, {"lr": 1, "wd": 2})
  for step in (1, 2, 3):
    first.write(step, {"loss": float(step)})
  first.write(2, {"top1": 0.5})
  # Killed; it goes on from step 2, whose scores and step 3 W&B has.
  second = start(tmp_path, {"lr": 3})
  second.write(2, {"top1": 0.5})
  for step in (3, 4):
    second.write(step, {"loss": float(step), "lr": 0.1})
  second.close(75)
  assert logged(wandb) == [
      (1, "loss", 1.0),
      (2, "loss", 2.0),
      (3, "loss", 3.0),
      (2, "top1", 0.5),
      (3, "lr", 0.1),
      (4, "loss", 4.0),
      (4, "lr", 0.1),
  ]
  one, two = wandb.runs
  assert one.options["id"] == two.options["id"]
  assert one.options["resume"] == two.options["resume"] == "allow"
  assert two.settings == {"lr": 3} and two.defined == ("*", "step")
  assert (one.exit_code, two.exit_code) == (None, 75)


def test_a_step_is_noted_before_it_is_sent(wandb, tmp_path):
  run = start(tmp_path)
  wandb.runs[0].log = lambda values: (_ for _ in ()).throw(KeyboardInterrupt)
  with pytest.raises(KeyboardInterrupt):
    run.write(5, {"loss": 1.0})
  assert json.loads((tmp_path / "wandb.json").read_text())["last"] == {
      "loss": 5
  }


def test_a_process_beside_training_has_a_run_of_its_own(wandb, tmp_path):
  train = start(tmp_path, name="mine")
  train.write(9, {"loss": 1.0})
  evals = start(tmp_path, name="mine", beside=True)
  for step in (6, 3):  # late, and in any order
    evals.write(step, {"loss": 1.0})
  train.write(10, {"loss": 1.0})
  one, two = (run.options for run in wandb.runs)
  assert one["group"] == two["group"] == one["id"] != two["id"]
  assert (one["job_type"], two["job_type"]) == ("train", "eval")
  assert (one["name"], two["name"]) == ("mine", "mine evals")
  assert [step for step, *_ in logged(wandb)] == [9, 10, 6, 3]
  # The other process did not touch the file.
  train = start(tmp_path)
  train.write(10, {"loss": 1.0})
  assert len(logged(wandb)) == 4


def test_without_the_service_the_run_is_logged_offline(wandb, tmp_path, caplog):
  wandb.reachable = False
  run = start(tmp_path)
  run.write(1, {"loss": 1.0})
  assert wandb.runs[0].options["mode"] == "offline"
  assert logged(wandb) == [(1, "loss", 1.0)]
  assert "no such host" in caplog.text and "wandb sync" in caplog.text


def test_a_start_that_fails_offline_too_does_not_end_the_run(
    wandb, tmp_path, caplog
):
  wandb.unusable = True
  for mode in ("online", "offline"):
    run = start(tmp_path, mode=mode)
    run.write(1, {"loss": 1.0})
    run.close(0)
  assert not wandb.runs and caplog.text.count("left out from here on") == 2


def test_a_killed_process_loses_a_second(wandb, tmp_path):
  start(tmp_path)
  settings = wandb.runs[0].options["settings"]
  assert settings.x_transaction_log_flush_interval == 1.0


def test_a_failure_later_leaves_it_out_and_is_told_once(
    wandb, tmp_path, caplog
):
  run = start(tmp_path)
  wandb.runs[0].broken = True
  for step in (1, 2, 3):
    run.write(step, {"loss": 1.0})
  run.close(0)
  assert caplog.text.count("ConnectionResetError: gone") == 1
  assert "for good" not in caplog.text


def test_closing_does_not_wait_forever(wandb, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(wandb_run, "_CLOSE_SECONDS", 0.05)
  run = start(tmp_path)
  wandb.runs[0].finish = lambda exit_code: time.sleep(2)
  run.close(0)
  assert "did not take the last metrics" in caplog.text


def test_bad_sections_are_told(wandb, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="one of online, offline; got 'on'"):
    start(tmp_path, mode="on")
  with pytest.raises(UserError, match="project must name a project"):
    start(tmp_path, project="")
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match=r"pip install -e .\[wandb\]"):
    wandb_run.check_wandb(project="p")


def test_a_damaged_file_begins_another_run_with_a_warning(
    wandb, tmp_path, caplog
):
  (tmp_path / "wandb.json").write_text("{")
  start(tmp_path)
  assert "wandb.json is damaged: another W&B run begins" in caplog.text
  known = json.loads((tmp_path / "wandb.json").read_text())
  assert known["id"] == wandb.runs[0].options["id"]
