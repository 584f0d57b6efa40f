"""Worker processes: the same batches, clear errors, and none left behind."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import textwrap
import threading
import time

from fake_examples import Numbers
from fake_examples import workers
import psutil
import pytest

from siglip_jax.data.loader.batches import Batches
from siglip_jax.data.loader.worker import Failed
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


def open_files():
  return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0


def test_processes_fill_the_batches_that_threads_would():
  threads, files = set(threading.enumerate()), open_files()
  examples = Numbers(40, 5)
  kept = []
  for number, batch in enumerate(
      Batches(examples, num_workers=2, num_threads=3, prefetch=2)
  ):
    examples.check(batch, number)
    if number % 7 == 0:
      kept.append((batch, number))
  assert number == 39 and not workers()
  for batch, number in kept:
    examples.check(batch, number)
  del kept, batch  # and with them the memory
  time.sleep(0.1)  # threads end by themselves
  assert set(threading.enumerate()) == threads and open_files() == files


def test_processes_end_when_the_iterator_is_forgotten():
  batches = Batches(Numbers(1000, 5), num_workers=2)
  next(batches)
  assert len(workers()) == 2
  del batches
  assert not workers()


@pytest.mark.parametrize(
    "error, expected, match",
    [
        (UserError("the rule"), UserError, "^the rule$"),
        (TryAgain("the network"), TryAgain, "^the network$"),
        (
            KeyError("code"),
            Failed,
            r"(?s)Traceback .*in begin.*KeyError: 'code'",
        ),
    ],
)
def test_errors_come_from_the_processes(error, expected, match):
  examples = Numbers(9, 4, errors={11: error})
  batches = Batches(examples, num_workers=1)
  for number in range(2):
    examples.check(next(batches), number)
  with pytest.raises(expected, match=match):
    next(batches)
  assert not workers()


def test_a_process_that_is_killed_is_an_error_and_no_hang():
  batches = Batches(Numbers(9, 4, deaths=[9]), num_workers=2)
  with pytest.raises(
      UserError, match="ended by SIGKILL. .*out of memory, lower"
  ):
    list(batches)
  assert not workers()


class Unreadable(Numbers):
  """Examples that cannot be had in another process."""

  def __reduce__(self):
    return int, ("no number",)


def test_examples_that_a_process_cannot_open_are_an_error():
  with pytest.raises(Failed, match="(?s)Traceback .*no number"):
    next(Batches(Unreadable(9, 4), num_workers=1))
  assert not workers()


def test_examples_that_cannot_be_sent_are_an_error_here():
  examples = Numbers(9, 4)
  examples.lock = threading.Lock()
  with pytest.raises(TypeError, match="cannot pickle"):
    next(Batches(examples, num_workers=1))
  assert not workers()


RUN = """
import os, signal, sys, time
from fake_examples import Numbers
import psutil
from siglip_jax.data.loader.batches import Batches

class Own(Numbers):
  pass

def main():
  batches = Batches(Own(10**6, 64, shape=(1000,)), num_workers=2)
  batch = next(batches)
  print(*(p.pid for p in psutil.Process().children()), flush=True)
  END

if __name__ == "__main__":
  main()
"""


def run(tmp_path, end: str, code: str = RUN) -> subprocess.CompletedProcess:
  script = Path(tmp_path, "run.py")
  script.write_text(code.replace("END", end))
  paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
  out, err = tmp_path / "out", tmp_path / "err"
  # Not pipes: their end would come after that of the last worker.
  with out.open("w") as stdout, err.open("w") as stderr:
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=stdout,
        stderr=stderr,
        check=False,
        timeout=60,
    )
  done.stdout, done.stderr = out.read_text(), err.read_text()
  return done


@pytest.mark.parametrize(
    "end, status",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os._exit(75)", 75),
        # A child of the run holds the connections open.
        (
            "if not os.fork(): os.closerange(0, 3); time.sleep(9); os._exit(0)"
            "\n  os.kill(os.getpid(), signal.SIGKILL)",
            -signal.SIGKILL,
        ),
        ("sys.exit(3)", 3),
    ],
)
def test_no_end_of_a_run_leaves_processes_or_memory(tmp_path, end, status):
  """The examples' class is the script's own, too."""
  memory = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
  done = run(tmp_path, end)
  assert done.returncode == status, done.stderr
  pids = [int(pid) for pid in done.stdout.split()]
  assert len(pids) == 2
  until = time.monotonic() + 5
  while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
    time.sleep(0.05)
  assert not any(map(psutil.pid_exists, pids))
  if memory:
    assert sorted(os.listdir("/dev/shm")) == memory
  assert "leaked" not in done.stderr and "Traceback" not in done.stderr


def test_a_script_need_not_guard_its_start(tmp_path):
  """Worker processes do not run it again, and get its classes all the same."""
  code = textwrap.dedent("""
      from fake_examples import Numbers
      from siglip_jax.data.loader.batches import Batches

      class Own(Numbers):
        def finish(self, begun):
          return [v | {"number": -v["number"]} for v in super().finish(begun)]

      for batch in Batches(Own(3, 4), num_workers=1):
        print(batch["number"].tolist())
  """)
  done = run(tmp_path, "", code)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
      "[0, -1, -2, -3]",
      "[-4, -5, -6, -7]",
      "[-8, -9, -10, -11]",
  ]
