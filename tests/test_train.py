"""Whole runs: killed, stopped, damaged, refused."""

import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

import fakes
import numpy as np
import pytest

import siglip_jax
from siglip_jax import schedules
from siglip_jax import tree
from siglip_jax.data import folders
from siglip_jax.data import tokenizer
from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import TRY_AGAIN

OF_THE_MACHINE = "_per_second$|_seconds$|/seconds$|wait_share$|^host/"
ENV = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def start(place, workdir, *flags):
  return subprocess.Popen(
      [
          sys.executable,
          "-m",
          "siglip_jax.main",
          f"--config={place / 'tiny.py'}",
          f"--workdir={workdir}",
          *flags,
      ],
      env=ENV,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
  )


@pytest.fixture
def finish(command, place):
  """Runs to the end and returns what was printed."""

  def finish(workdir, *flags, config="tiny.py", status=0):
    done = command.run(
        "siglip_jax.main",
        f"--config={place / config}",
        f"--workdir={workdir}",
        *flags,
        status=status,
    )
    assert "Traceback" not in done.err
    return done.out + done.err

  return finish


def lines(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(t) for t in path.read_text().splitlines()]


def trajectory(workdir):
  """All that must repeat: everything but clock and memory."""
  return [
      {k: v for k, v in line.items() if not re.search(OF_THE_MACHINE, k)}
      for line in lines(workdir)
  ]


def disturbed(place, name, code):
  """A config whose file does something else to the run, too."""
  (place / name).write_text(code + (place / "tiny.py").read_text())
  return name


def wait_for(condition, process, limit=240):
  end = time.monotonic() + limit
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.01)


def checkpoint_bytes(workdir, step=12):
  assert (workdir / "checkpoints" / str(step)).is_dir()
  params = siglip_jax.load(workdir).params
  return {k: np.asarray(v) for k, v in tree.flatten(params).items()}


def test_a_run_prints_its_scores_and_logs_its_steps(place, trained):
  out = (place / "trained.out").read_text()
  assert "zeroshot/colors/top1" in out and "Report:" in out
  found = {k: line["step"] for line in lines(trained) for k in line}
  assert found["train/loss"] == found["zeroshot/colors/top1"] == 12
  rates = {x["step"]: x["train/lr"] for x in lines(trained) if "train/lr" in x}
  schedule = schedules.make(12, 8, decay="cosine", warmup_steps=2)
  # Step n is the n-th update, whose rate the schedule gives at n - 1; under
  # jit the last bits of its cosine differ.
  assert rates == pytest.approx(
      {n: 3e-3 * float(schedule(n - 1)) for n in range(1, 13)}, rel=1e-5
  )


def test_every_line_of_training_says_where_the_time_went(trained):
  logged = [line for line in lines(trained) if "train/loss" in line]
  for line in logged:
    assert 0 <= line["data/wait_share"] <= 1
    assert line["train/step_seconds"] > 0
    assert line["host/memory_bytes"] > 1e7
  # Saved at 4 and 8, and with the evaluations at 5 and 10; the next line tells.
  saved = [x["step"] for x in logged if "ckpt/save_seconds" in x]
  assert saved == [5, 6, 9, 11]


def test_chosen_steps_are_traced_and_a_stop_leaves_scores_to_the_next(
    place, finish, trained
):
  workdir = place / "traced"
  code = """
from siglip_jax.multihost import preemption
def reached(self):
  self.asked = getattr(self, "asked", 0) + 1
  return self.asked == 6  # before steps 0 to 5
preemption.Preemption.reached = reached
"""
  config = disturbed(place, "stops.py", code)
  steps = "--config.profile.steps=(2,3,12)"
  out = finish(workdir, steps, config=config, status=TRY_AGAIN)
  assert "Stopped by SIGTERM at step 5" in out
  assert not any("zeroshot/colors/top1" in line for line in lines(workdir))
  traces = workdir / "profile" / "plugins" / "profile"
  assert [len(list(t.glob("*.xplane.pb"))) for t in traces.iterdir()] == [1]
  finish(workdir, steps)
  assert len(list(traces.iterdir())) == 2
  assert trajectory(workdir) == trajectory(trained)


def test_a_batch_that_never_comes_ends_the_run_with_its_stacks(
    place, finish, trained
):
  code = """
import time
from siglip_jax.data import prefetch
to_device = prefetch.to_device
def hanging(*args):
  for i, batch in enumerate(to_device(*args)):
    time.sleep(600 if i == 5 else 0)
    yield batch
prefetch.to_device = hanging
"""
  out = finish(
      place / "hung",
      "--config.watchdog.data_seconds=1",
      config=disturbed(place, "hanging.py", code),
      status=TRY_AGAIN,
  )
  assert "The data phase of step 5 took longer than config.watchdog" in out
  assert "worker 0: data of step 5 for " in out and "in hanging" in out
  finish(place / "hung")
  assert trajectory(place / "hung") == trajectory(trained)


def test_a_full_disk_is_one_line_and_what_was_saved_goes_on(
    place, finish, trained
):
  code = """
import errno, os
import orbax.checkpoint as ocp
def without_room(self, step, **options):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
ocp.CheckpointManager.save = without_room
"""
  workdir = place / "full"
  config = disturbed(place, "full.py", code)
  out = finish(workdir, config=config, status=BAD_INPUT)
  assert "error: The disk is full: a checkpoint could not be saved" in out
  assert "(none is whole)" in out
  finish(workdir)
  assert trajectory(workdir) == trajectory(trained)


def test_killed_and_started_again_ends_bit_for_bit_the_same(
    place, finish, trained
):
  workdir = place / "killed"
  process = start(place, workdir)
  # Killed after a step that the first checkpoint does not hold.
  wait_for(
      lambda: (workdir / "checkpoints" / "4").is_dir()
      and any(line.get("step", 0) >= 5 for line in trajectory(workdir)),
      process,
  )
  os.kill(process.pid, signal.SIGKILL)
  process.communicate()
  with (workdir / "metrics.jsonl").open("a") as f:
    f.write('{"step": 9, "train/lo')  # a line cut short
  finish(workdir)
  assert trajectory(workdir) == trajectory(trained)
  expected = checkpoint_bytes(trained)
  for name, value in checkpoint_bytes(workdir).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_sigterm_saves_and_the_run_goes_on(place, finish, trained):
  workdir = place / "stopped"
  process = start(place, workdir)
  wait_for(
      lambda: (workdir / "metrics.jsonl").exists() and lines(workdir), process
  )
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=240)
  if "Stopped by SIGTERM" in out:
    assert process.returncode == TRY_AGAIN, err
    finish(workdir)
  assert trajectory(workdir) == trajectory(trained)


@pytest.mark.parametrize(
    "what, status, match",
    [
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            TRY_AGAIN,
            "Stopped by SIGTERM at step 5, which is saved",
        ),
        ("os._exit(137)", 137, ""),  # as the watchdog or the kernel do
    ],
)
def test_an_evaluation_that_ends_a_run_loses_no_step(
    place, finish, trained, tmp_path, what, status, match
):
  code = f"""
import os, signal
from siglip_jax.data import pipeline
batches = pipeline.eval_batches
def ends(*args, **options):
  {what}
  yield from batches(*args, **options)
pipeline.eval_batches = ends
"""
  workdir = tmp_path / "run"
  config = disturbed(place, "ends.py", code)
  assert match in finish(workdir, config=config, status=status)
  assert (workdir / "checkpoints" / "5").is_dir()
  assert not any("zeroshot" in str(line) for line in lines(workdir))
  finish(workdir)
  assert trajectory(workdir) == trajectory(trained)


def test_a_damaged_checkpoint_is_passed_over(place, finish, trained):
  newest = trained / "checkpoints" / "12"
  copy = place / "damaged"
  subprocess.run(["cp", "-r", trained, copy], check=True)
  for path in (copy / "checkpoints" / "12").rglob("*"):
    if path.is_file() and path.stat().st_size > 200:
      path.write_bytes(path.read_bytes()[:100])
  out = finish(copy)
  assert "unreadable" in out
  assert (copy / "damaged_12").is_dir()
  assert trajectory(copy) == trajectory(trained)
  assert newest.is_dir()


def test_all_checkpoints_damaged_is_an_error_that_keeps_them(
    place, finish, trained
):
  copy = place / "all_damaged"
  subprocess.run(["cp", "-r", trained, copy], check=True)
  for path in (copy / "checkpoints").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  out = finish(copy, status=2)
  assert "No checkpoint in" in out
  assert (copy / "checkpoints" / "12").is_dir()


def test_another_tokenizer_is_refused(place, finish, trained):
  moved = place / "moved.model"
  config = (place / "tiny.py").read_text()
  config = config.replace(str(place / "tokenizer.model"), str(moved))
  (place / "moved.py").write_text(config)
  tokenizer.train(["entirely other words"] * 3, moved, vocab_size=300)
  out = finish(trained, config="moved.py", status=2)
  digest = tokenizer.Tokenizer(place / "tokenizer.model").digest
  assert f"was trained with tokenizer_digest = '{digest}'" in out
  kept = (trained / "tokenizer.model").read_bytes()
  assert kept == (place / "tokenizer.model").read_bytes()

  # The same file may lie elsewhere; the same words may be cut elsewhere.
  shutil.copyfile(place / "tokenizer.model", moved)
  finish(trained, "--eval_only", config="moved.py")
  (place / "moved.py").write_text(config.replace("lower|", ""))
  out = finish(trained, config="moved.py", status=2)
  assert "was trained with text = 'lower|tok" in out


def test_unreadable_images_are_replaced_counted_and_named(place, finish):
  images = place / "some_bad"
  fakes.captioned_folder(images)
  train = folders.folder_source(images, "train")
  for i in (3, 30):
    bad = Path(train.key(i))
    bad.write_bytes(bad.read_bytes()[:40])
  config = (place / "tiny.py").read_text()
  config = config.replace(str(place / "images"), str(images))
  config = config.replace("warmup_steps=2", "warmup_epochs=1")
  (place / "bad.py").write_text(config)
  out = finish(place / "bad", "--config.total_steps=7", config="bad.py")
  last = lines(place / "bad")[-2]
  # 56 examples are an epoch and some: each was met once or twice.
  assert last["step"] == 7 and 2 <= last["data/replaced"] <= 4
  assert {train.key(3), train.key(30)} == set(
      re.findall(r"Replaced (\S+): ", out)
  )
  # An epoch, over which the rate rises, is as long as these data.
  assert last["train/lr"] == pytest.approx(3e-3 * 6 / round(len(train) / 8))

  few = "--config.data.max_replaced_share=0.0"
  out = finish(place / "few", few, config="bad.py", status=2)
  assert "could not be read: " in out and "max_replaced_share is 0.0%" in out


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, finish):
  out = finish(
      tmp_path,
      "--config.optim.lr=1e38",
      "--config.optim.clip_norm=1e9",
      status=2,
  )
  assert "finite between steps" in out and "Last good" in out


def test_no_state_is_saved_that_no_log_has_looked_at(tmp_path, finish):
  out = finish(
      tmp_path,
      "--config.optim.lr=1e38",
      "--config.optim.clip_norm=1e9",
      "--config.log_steps=12",
      status=2,
  )
  assert "finite between steps 0 and 4 " in out and "none was saved" in out
  assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
