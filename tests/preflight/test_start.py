"""Where a run starts, and what a start that is refused leaves alone."""

import json
import re
import shutil
import time

import fakes
import pytest

from siglip_jax import workdir as workdir_lib


def contents(workdir):
  """The bytes of every file."""
  return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_fewer_steps_than_are_done_change_nothing(place, command, trained):
  workdir = shutil.copytree(trained, place / "shorter")
  before = contents(workdir)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
      "--config.total_steps=5",
  )
  assert "has made 12 steps, and config.total_steps = 5 is fewer" in message
  assert contents(workdir) == before


def test_another_length_of_texts_is_refused_by_name(place, command, trained):
  workdir = shutil.copytree(trained, place / "longer")
  spec = workdir / "checkpoints" / "12" / "spec" / "metadata"
  shutil.rmtree(workdir / "checkpoints" / "12" / "about")  # its checksum
  spec.write_text(json.dumps(json.loads(spec.read_text()) | {"text_len": 9}))
  before = contents(workdir)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
  )
  assert "was trained with text_len = 9, this config has 8" in message
  assert contents(workdir) == before


def test_there_is_nothing_to_evaluate_before_a_run(place, command):
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={place / 'fresh'}",
      "--eval_only",
  )
  assert "--eval_only needs a checkpoint; the workdir has none" in message
  assert not (place / "fresh" / "config.json").exists()


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "copy")


def test_a_start_is_kept_with_all_that_it_ran_on(trained):
  (start,) = workdir_lib.read_starts(trained)
  assert start["step"] == start["examples"] == 0 and start["config"] == 1
  assert start["changed"] == [] and start["devices"] == "1 x cpu"
  assert re.fullmatch("[0-9a-f]{12}", start["code"])
  assert {"python", "jax", "flax", "orbax-checkpoint"} <= start[
      "versions"
  ].keys()
  assert start["evals"].keys() == start["tried"].keys() == {"colors"}
  assert not list(trained.glob("config.*.json"))


def test_each_changed_field_is_said_and_each_config_kept(command, place, copy):
  first = (copy / "config.json").read_text()
  changed = (
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={copy}",
      "--config.total_steps=14",
      "--config.batch_size=16",
      "--config.optim.lr=0.01",
  )
  done = command.run(
      *changed,
      "--config.optim.schedule=[('txt/.*', None), ('.*', {'decay': 'none'})]",
      status=2,
  )
  # A frozen tower has no optimizer state.
  assert (
      "Changed since the run's last start: optim.lr = 0.01, was 0.003; opt"
      in done.err
  )
  assert (copy / "config.json").read_text() == first

  done = command.run(
      *changed,
      status=0,
  )
  said = [line for line in done.out.splitlines() if line.startswith("resumed ")]
  changes = [
      "batch_size = 16, was 8",
      "optim.lr = 0.01, was 0.003",
      "total_steps = 14, was 12",
  ]
  assert said[:-1] == [f"resumed with {change}" for change in changes]
  assert said[-1].startswith("resumed at example 96 of the data")
  assert json.loads((copy / "config.json").read_text())["batch_size"] == 16
  assert (copy / "config.1.json").read_text() == first
  start = workdir_lib.read_starts(copy)[-1]
  assert start["changed"] == changes and start["config"] == 2
  assert (start["step"], start["examples"]) == (12, 96)
  report = (copy / "report.html").read_text()
  assert all(change in report for change in changes)


@pytest.mark.parametrize(
    "flag, match",
    [
        (
            "--config.model.text.pool_type=gap",
            "with model.text.pool_type = 'las",
        ),
        (
            "--config.model.image.width=64",
            r"img/\S+ is float32\S+ in the checkpoint and float32\S+ here, .*"
            "Changed since .*: model.image.width = 64, was 32. Change back",
        ),
        ("--config.optim.clip_norm=0", "clip_norm must be positive"),
        ("--config.data.path=nowhere", "There is no folder nowhere"),
    ],
)
def test_a_start_that_is_refused_changes_nothing(
    command, place, copy, flag, match
):
  before = contents(copy)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={copy}",
      flag,
  )
  assert re.search(match, message), message
  assert contents(copy) == before
  own = {p.relative_to(copy).parts[0] for p in before}
  assert {p.name for p in copy.iterdir()} == own


def test_a_run_is_alone_in_its_workdir(command, place, trained, tmp_path):
  waiting = fakes.waiting_config(
      place / "tiny.py", tmp_path / "waiting.py", tmp_path / "go"
  )
  workdir = tmp_path / "run"
  first = command.start(
      "siglip_jax.main", f"--config={waiting}", f"--workdir={workdir}"
  )
  while not (workdir / "checkpoints" / "5").exists():
    assert first.poll() is None, first.wait()
    time.sleep(0.05)
  for flags in ((), ("--config.seed=1",)):
    message = command.refuse(
        "siglip_jax.main",
        f"--config={place / 'tiny.py'}",
        f"--workdir={workdir}",
        *flags,
    )
    assert re.search(
        "belongs to one run at a time; .*run is in use by", message
    )
  (tmp_path / "go").touch()
  first.wait(status=0)
  assert trajectory(workdir) == trajectory(trained)
  assert len(workdir_lib.read_starts(workdir)) == 1
  assert not list(workdir.glob("*lock*"))


def trajectory(workdir):
  """All that must repeat: everything but clock and memory."""
  machine = "_per_second$|_seconds$|/seconds$|wait_share$|^host/"
  return [
      {k: v for k, v in json.loads(line).items() if not re.search(machine, k)}
      for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
