"""A parent that waits: statuses pass, and a death by signal is another."""

import subprocess
import sys

from siglip_jax.errors import TRY_AGAIN

SUPERVISED = """
import os, signal, sys, time
from siglip_jax.multihost import parent
def main():
  print("begun", os.getpid(), flush=True)
  {body}
sys.exit(parent.watch(main))
"""


def supervised(body):
  return subprocess.Popen(
      [sys.executable, "-c", SUPERVISED.format(body=body)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )


def test_a_status_passes_and_a_death_by_signal_is_try_again():
  for body, status in (
      ("return 2", 2),
      ("os.abort()", TRY_AGAIN),
      ("os.kill(os.getpid(), signal.SIGKILL)", TRY_AGAIN),
  ):
    process = supervised(body)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert ("died of SIG" in err) == (status == TRY_AGAIN)


def test_sigterm_reaches_the_child_and_a_dead_parent_takes_it_along():
  caught = (
      "signal.signal(signal.SIGTERM, lambda *a: sys.exit(7));time.sleep(60)"
  )
  process = supervised(
      f"{caught}".replace(";", "\n  print('ready', flush=True)\n  ")
  )
  assert process.stdout.readline().startswith("begun")
  assert process.stdout.readline() == "ready\n"
  process.terminate()
  process.communicate(timeout=60)
  assert process.returncode == 7

  process = supervised("time.sleep(60)")
  assert process.stdout.readline().startswith("begun")
  process.kill()
  # The child holds the pipe open for as long as it lives.
  assert process.communicate(timeout=30)[0] == ""
