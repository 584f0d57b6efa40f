"""Worker processes do the jobs in order, and none outlives its parent."""

import os
import subprocess
import sys
import time

import pytest

from siglip_jax.data.tars import build
from siglip_jax.data.tars import workers
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

# Functions of this file cannot be sent to other processes.
SHELL = subprocess.getoutput


def test_results_come_in_order_from_other_processes():
  jobs = [f"echo {i} $PPID" for i in range(9)]
  done = [line.split() for line in workers.run(SHELL, jobs, 2)]
  assert [int(job) for job, _ in done] == list(range(9))
  assert str(os.getpid()) not in {process for _, process in done}


def test_one_process_is_this_one():
  assert list(workers.run(SHELL, ["echo $PPID"], 5)) == [str(os.getpid())]
  assert not list(workers.run(SHELL, [], 5))


def test_an_error_of_a_job_is_raised():
  results = workers.run(build.suffixes, ["jpg", ";", "png"], 2)
  assert next(results) == ("jpg",)
  with pytest.raises(UserError, match="as 'jpg;png'"):
    next(results)


def test_a_process_that_dies_means_the_same_command_again():
  with pytest.raises(TryAgain, match="A worker process was killed"):
    list(workers.run(os._exit, [1, 1], 2))


def test_no_process_outlives_its_parent(tmp_path):
  script = tmp_path / "parent.py"
  script.write_text(
      "import pathlib, time, os\n"
      "from siglip_jax.data.tars import workers\n"
      "def work(path):\n"
      "  pathlib.Path(path).write_text(str(os.getpid()))\n"
      "  time.sleep(100)\n"
      "if __name__ == '__main__':\n"
      f"  jobs = ['{tmp_path}/a', '{tmp_path}/b']\n"
      "  list(workers.run(work, jobs, 2))\n"
  )
  with subprocess.Popen([sys.executable, str(script)]) as parent:
    paths = [tmp_path / name for name in "ab"]
    end = time.monotonic() + 60
    while not all(p.exists() and p.read_text() for p in paths):
      assert time.monotonic() < end
      time.sleep(0.05)
    parent.kill()
  pids = [int(p.read_text()) for p in paths]
  while any(os.path.exists(f"/proc/{number}") for number in pids):
    assert time.monotonic() < end
    time.sleep(0.05)
