"""Whole runs of two processes of four devices: killed, hung, told to stop.

Whatever happens to one, the other ends with the status that asks for the same
command again, and the run ends bit for bit where an undisturbed one ends.
"""

import json
import re
import signal
import time

from commands import free_port
import fakes
import numpy as np
import psutil
import pytest

import siglip_jax
from siglip_jax import tree
from siglip_jax import workdir as workdir_lib
from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN

# Long enough for a busy machine, short enough to wait for.
QUICK = "--config.watchdog.peer_seconds=8"
# So many that a test that is slow to look still meets the run under way.
STEPS = 20


@pytest.fixture(scope="module")
def start(command, place):
  """Starts main on one process of so many devices, or on two of four."""

  def one(workdir, *flags, devices=8, config="tiny.py"):
    return command.start(
        "siglip_jax.main",
        f"--config={place / config}",
        f"--workdir={workdir}",
        f"--config.total_steps={STEPS}",
        "--config.evals.colors.every_steps=10",
        *flags,
        devices=devices,
    )

  def two(workdir, *flags, each=lambda index: [], **options):
    address = f"localhost:{free_port()}"
    join = [f"--coordinator={address}", "--num_processes=2"]
    return [
        one(
            workdir,
            *join,
            f"--process_id={i}",
            *flags,
            *each(i),
            devices=4,
            **options,
        )
        for i in range(2)
    ]

  return one, two


def finish(two, workdir):
  """Starts two until both are done, as tpu/watch.sh would."""
  for _ in range(5):
    statuses = {process.wait().status for process in two(workdir)}
    if statuses == {DONE}:
      return
    assert statuses <= {DONE, TRY_AGAIN}
  raise AssertionError("never done")


def start_until(two, workdir, step, *flags):
  """Starts two and lets them train until a step is logged."""
  path = workdir / "metrics.jsonl"
  for _ in range(5):
    # What is there at first was written by a start that is dead.
    old = len(workdir_lib.read_starts(workdir))
    pair = two(workdir, *flags)
    while all(process.poll() is None for process in pair):
      new = len(workdir_lib.read_starts(workdir)) > old and path.exists()
      if new and f'"step": {step}, "data/' in path.read_text():
        return pair
      time.sleep(0.01)
    # On a busy machine the network's own limits may be too short.
    ends = [process.wait(status=TRY_AGAIN).err for process in pair]
  raise AssertionError(f"never at step {step}: {ends}")


@pytest.fixture(scope="module")
def undisturbed(start, place):
  workdir = place / "two"
  finish(start[1], workdir)
  return workdir


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(x) for x in lines if "train/loss" in x]
  return {x["step"]: x["train/loss"] for x in found}


def parameters(workdir):
  params = siglip_jax.load(workdir).params
  return {k: np.asarray(v) for k, v in tree.flatten(params).items()}


def test_hung_stopped_and_killed_it_ends_bit_for_bit_the_same(
    start, place, undisturbed
):
  workdir = place / "disturbed"
  _, two = start

  # Process 1 hangs in mid-step: the other says who, and where it stands.
  first, second = start_until(two, workdir, 2, QUICK)
  (worker,) = psutil.Process(second.pid).children()
  worker.suspend()
  done = first.wait(status=TRY_AGAIN)
  assert "error: Worker 1 gave no sign of life for 8 s" in done.err
  assert re.search(r"worker 0: \w+ of step \d+ for .* s, heard", done.err)
  assert "train.py" in done.err and "most recent call first" in done.err
  worker.kill()
  second.wait()

  # SIGTERM to one: both save the same step.
  first, second = start_until(two, workdir, 4)
  second.kill(signal.SIGTERM)
  out = first.wait(status=TRY_AGAIN).out
  second.wait(status=TRY_AGAIN)
  step = re.search(r"Stopped by SIGTERM at step (\d+), which is saved", out)[1]
  assert (workdir / "checkpoints" / step).is_dir()

  # kill -9 of the process through which all speak.
  first, second = start_until(two, workdir, max(int(step) + 1, 8), QUICK)
  first.kill()
  second.wait(status=TRY_AGAIN, limit=120)  # 8 s, and what ending takes
  first.wait()

  finish(two, workdir)
  assert losses(workdir) == losses(undisturbed)
  expected = parameters(undisturbed)
  for name, value in parameters(workdir).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_second_start_is_refused_and_the_first_does_not_notice(
    start, place, undisturbed, tmp_path
):
  go = tmp_path / "go"
  fakes.waiting_config(place / "tiny.py", place / "waits.py", go)
  _, two = start
  workdir = place / "held"
  first = two(workdir, config="waits.py")
  while not (workdir / "checkpoints" / "4").exists():
    assert all(process.poll() is None for process in first)
    time.sleep(0.05)
  for process in two(workdir, "--config.seed=3"):
    message = process.wait(status=BAD_INPUT).err
    assert re.search("error: .*belongs to one run at a time; .* is in", message)
    assert "Traceback" not in message
  go.touch()
  for process in first:
    process.wait(status=DONE)
  assert losses(workdir) == losses(undisturbed)
  ours, theirs = parameters(workdir), parameters(undisturbed)
  assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_it_goes_on_with_other_devices_meshes_and_processes(
    start, place, undisturbed
):
  workdir = place / "moved"
  one, two = start
  for devices, fsdp, step in ((8, 4, 4), (4, 2, 8)):
    process = one(workdir, f"--config.mesh.fsdp={fsdp}", devices=devices)
    while not (workdir / "checkpoints" / str(step)).is_dir():
      assert process.poll() is None, process.read()
      time.sleep(0.01)
    process.kill()
    process.wait()
  finish(two, workdir)
  found, expected = losses(workdir), losses(undisturbed)
  assert found.keys() == expected.keys() == set(range(1, STEPS + 1))
  # The order of float32 sums over devices differs, nothing else.
  for step, value in expected.items():
    assert found[step] == pytest.approx(value, rel=1e-5), step


def test_a_process_that_differs_or_does_not_come_is_named(start, place):
  one, two = start
  join = ["--coordinator=localhost:9", "--num_processes=2", "--process_id=1"]
  done = one(place / "x", *join, "--join_seconds=1").wait(status=TRY_AGAIN)
  assert "could not reach worker 0 at localhost:9" in done.err
  assert "Traceback" not in done.err

  for process in two(place / "x", each=lambda i: [f"--config.seed={i}"]):
    err = process.wait(status=BAD_INPUT).err
    assert "All workers must run the same config" in err
    assert "on worker 1" in err
