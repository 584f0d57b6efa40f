"""Whole runs in processes of their own: killed, stopped, damaged, refused."""

import json
import os
import signal
import subprocess
import sys
import time

import fakes
import numpy as np
import pytest

import siglip_jax
from siglip_jax import tree
from siglip_jax.data import sources
from siglip_jax.data import tokenizer

ENV = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Pictures, tokenizer and config."""
  place = tmp_path_factory.mktemp("run")
  folder = fakes.captioned_folder(place / "pictures")
  source = sources.make(path=str(folder), split="all")
  texts = (source[i]["text"] for i in range(len(source)))
  tokenizer.train(texts, place / "tokenizer.model", vocab_size=400)
  config = fakes.tiny_config(folder, place / "tokenizer.model")
  (place / "tiny.py").write_text(config)
  return place


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


def finish(place, workdir, *flags, status=0):
  process = start(place, workdir, *flags)
  out, err = process.communicate(timeout=300)
  assert process.returncode == status, out + err
  if status:
    assert "Traceback" not in err
  return out + err


def lines(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(t) for t in path.read_text().splitlines()]


def trajectory(workdir):
  """All that must repeat: everything but the clock."""
  return [
      {k: v for k, v in line.items() if k != "train/examples_per_second"}
      for line in lines(workdir)
  ]


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


@pytest.fixture(scope="module")
def undisturbed(place):
  workdir = place / "undisturbed"
  out = finish(place, workdir)
  assert "zeroshot/colors/top1" in out and "Report:" in out
  return workdir


def test_killed_and_started_again_ends_bit_for_bit_the_same(place, undisturbed):
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
  finish(place, workdir)
  assert trajectory(workdir) == trajectory(undisturbed)
  expected = checkpoint_bytes(undisturbed)
  for name, value in checkpoint_bytes(workdir).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_sigterm_saves_and_the_run_goes_on(place, undisturbed):
  workdir = place / "stopped"
  process = start(place, workdir)
  wait_for(
      lambda: (workdir / "metrics.jsonl").exists() and lines(workdir), process
  )
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=240)
  assert process.returncode == 0, err
  if "Stopped by SIGTERM" in out:
    finish(place, workdir)
  assert trajectory(workdir) == trajectory(undisturbed)


def test_a_damaged_checkpoint_is_passed_over(place, undisturbed):
  newest = undisturbed / "checkpoints" / "12"
  copy = place / "damaged"
  subprocess.run(["cp", "-r", undisturbed, copy], check=True)
  for path in (copy / "checkpoints" / "12").rglob("*"):
    if path.is_file() and path.stat().st_size > 200:
      path.write_bytes(path.read_bytes()[:100])
  out = finish(place, copy)
  assert "unreadable" in out
  assert (copy / "damaged_12").is_dir()
  assert trajectory(copy) == trajectory(undisturbed)
  assert newest.is_dir()


def test_all_checkpoints_damaged_is_an_error_that_keeps_them(
    place, undisturbed
):
  copy = place / "all_damaged"
  subprocess.run(["cp", "-r", undisturbed, copy], check=True)
  for path in (copy / "checkpoints").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  out = finish(place, copy, status=2)
  assert "No checkpoint in" in out or "checkpoint" in out
  assert (copy / "checkpoints" / "12").is_dir()


def test_another_tokenizer_is_refused(place, undisturbed):
  other = place / "other.model"
  tokenizer.train(["entirely other words"] * 3, other, vocab_size=300)
  text = f'lower|tokenize(max_len=8, model="{other}")'
  out = finish(place, undisturbed, f"--config.preprocess.text={text}", status=2)
  assert "trained with" in out


def test_bad_input_is_one_line(place, tmp_path):
  out = finish(place, tmp_path / "a", "--config.optim.lrr=1", status=2)
  assert "lrr" in out and "lr" in out
  out = finish(place, tmp_path / "b", "--config.batch_size=0", status=2)
  assert "config.batch_size" in out
  out = finish(
      place, tmp_path / "a", "--config=configs/emoji.py:stepz=3", status=2
  )
  assert "did you mean 'steps'" in out
  (tmp_path / "file").write_text("")
  out = finish(place, tmp_path / "file" / "sub", status=2)
  assert "workdir" in out
  empty = tmp_path / "empty"
  empty.mkdir()
  out = finish(place, tmp_path / "c", f"--config.data.path={empty}", status=2)
  assert "is empty" in out


def test_a_loss_that_is_not_finite_stops_the_run(place, tmp_path):
  out = finish(
      place,
      tmp_path,
      "--config.optim.lr=1e38",
      "--config.optim.clip_norm=1e9",
      status=2,
  )
  assert "finite between steps" in out and "Last good" in out
