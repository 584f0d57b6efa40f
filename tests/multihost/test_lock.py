"""One run, one workdir: real processes that start, are killed and suspended."""

import contextlib
import dataclasses
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import pytest

from siglip_jax.errors import UserError
from siglip_jax.multihost import holders
from siglip_jax.multihost import lock
from siglip_jax.multihost.lock import Lock

# Holds the lock until its standard input ends. The second argument is the name
# of another machine, or empty; the third the seconds between heartbeats.
_HOLD = """
import os, sys
from siglip_jax.multihost import holders, lock
workdir, machine, seconds = sys.argv[1:]
if machine:
  holders._machine = lambda: machine
with lock.Lock(workdir, beat_seconds=float(seconds)) as held:
  if not (child := os.fork()):
    held.release()  # it is the parent's
    os._exit(0)
  os.waitpid(child, 0)
  print("held", flush=True)
  sys.stdin.read()
"""


@contextlib.contextmanager
def holding(workdir, machine="", seconds=0.05):
  """A process that holds the lock of a workdir."""
  with subprocess.Popen(
      [sys.executable, "-c", _HOLD, str(workdir), machine, str(seconds)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  ) as process:
    try:
      assert process.stdout.readline() == "held\n", process.stderr.read()
      yield process
    finally:
      process.kill()


@pytest.fixture
def unwatched(monkeypatch):
  """Watching a file is a failure."""
  monkeypatch.setattr(lock, "_say", pytest.fail)


def written(workdir, **changes):
  """Writes the file of a holder on another machine; returns its bytes."""
  elsewhere = holders.this_process("run")
  changes = {"machine": "elsewhere", "host": "far", "pid": 7} | changes
  text = dataclasses.replace(elsewhere, **changes).text()
  (workdir / holders.NAME).write_bytes(text)
  return text


def wait(condition):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def everything(folder):
  paths = [folder, *folder.rglob("*")]
  return [
      (p, p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in paths
  ]


def test_a_second_start_is_refused_in_one_line_and_touches_nothing(
    tmp_path, unwatched
):
  (tmp_path / "metrics.jsonl").write_text("{}\n")
  with holding(tmp_path, seconds=600) as process:
    before = everything(tmp_path)
    with pytest.raises(UserError) as e:
      Lock(tmp_path).acquire()
    assert everything(tmp_path) == before
    found = lock.holder(tmp_path)
    assert found.pid == process.pid and found.alive
    assert "-c" in found.command
    assert str(e.value) == (
        f"A workdir belongs to one run at a time; {tmp_path} is in use by the"
        f" run on {found.host} (pid {process.pid}, since {found.since}). Wait"
        f" for it, stop it (kill {process.pid}), or use another --workdir."
    )
    process.stdin.close()
    assert process.wait() == 0
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_killed_holder_is_replaced_at_once(tmp_path, unwatched):
  with holding(tmp_path) as process:
    process.kill()
    process.wait()
    assert lock.holder(tmp_path).alive is False
    with Lock(tmp_path):
      assert lock.holder(tmp_path).pid == os.getpid()


def test_a_later_process_with_its_id_is_not_the_holder(tmp_path, unwatched):
  me = holders.this_process("run")
  written(tmp_path, machine=me.machine, pid=os.getpid(), born="7")
  with Lock(tmp_path):
    assert lock.holder(tmp_path).born == me.born


def test_a_suspended_holder_of_this_machine_keeps_the_lock(tmp_path, unwatched):
  with holding(tmp_path) as process:
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="is in use by"):
      Lock(tmp_path, stale_seconds=0.1).acquire()


def test_a_holder_elsewhere_lives_as_long_as_its_heart_beats(tmp_path, capfd):
  with holding(tmp_path, "elsewhere") as process:
    with pytest.raises(UserError, match=rf"kill {process.pid} there\)"):
      Lock(tmp_path, stale_seconds=60).acquire()
    process.kill()
    process.wait()
    with Lock(tmp_path, stale_seconds=0.3):
      assert lock.holder(tmp_path).pid == os.getpid()
  lines = capfd.readouterr().err.splitlines()
  assert len(lines) == 3
  assert "waiting up to 60 s to see whether the run on" in lines[0]
  assert f"(pid {process.pid}" in lines[1] and "0.3 s" in lines[1]
  assert lines[2].startswith("There was no sign of life for 0.3 s")


def test_a_holder_that_releases_while_it_is_watched_is_replaced(tmp_path):
  written(tmp_path)
  path = tmp_path / holders.NAME
  threading.Timer(0.1, path.unlink).start()
  with Lock(tmp_path, stale_seconds=600):
    assert lock.holder(tmp_path).pid == os.getpid()


def test_a_very_old_lock_is_not_watched(tmp_path, monkeypatch, unwatched):
  before = time.time() - 700
  written(tmp_path)
  os.utime(tmp_path / holders.NAME, (before, before))
  with Lock(tmp_path):
    assert [p.name for p in tmp_path.iterdir()] == [holders.NAME]


@pytest.mark.parametrize("kind", ["local", "mounted"])
def test_a_lock_is_not_old_by_this_hosts_clock_alone(
    tmp_path, monkeypatch, kind
):
  """Nor if the hosts that write to a bucket date its files."""
  text = written(tmp_path)
  if kind == "local":
    wrong = time.time() + 1e6
    monkeypatch.setattr(lock.time, "time", lambda: wrong)
  else:
    os.utime(tmp_path / holders.NAME, (0, 0))
  assert not Lock(tmp_path)._is_old(kind)
  assert holders.read(tmp_path / holders.NAME) == text
  assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 400, b"[1]"])
def test_a_file_that_says_nothing_is_watched_and_replaced(
    tmp_path, capfd, data
):
  (tmp_path / holders.NAME).write_bytes(data)
  with Lock(tmp_path, stale_seconds=0.1):
    assert lock.holder(tmp_path).pid == os.getpid()
  said = capfd.readouterr().err
  assert "whether the process that wrote it still lives" in said


def test_a_file_that_is_being_written_is_somebodys(tmp_path):
  path = tmp_path / holders.NAME
  path.write_bytes(b"")
  threading.Timer(0.1, path.write_bytes, [b"{"]).start()
  match = "in use by the process that wrote it. Wait for it, stop it, or use"
  with pytest.raises(UserError, match=match):
    Lock(tmp_path, stale_seconds=600).acquire()
  assert path.read_bytes() == b"{"


# Ten children that start when the pipe closes; the one that gets the lock keeps
# it until the others have ended.
_TEN = """
import os, sys, time
from siglip_jax.errors import UserError
from siglip_jax.multihost import lock
go, start = os.pipe()
done, tell = os.pipe()
children = []
for _ in range(10):
  if not (child := os.fork()):
    os.close(start), os.close(done)
    os.read(go, 1)
    held = lock.Lock(sys.argv[1])
    try:
      held.acquire()
    except UserError:
      os.write(tell, b"n")
      os._exit(0)
    os.write(tell, b"Y")
    time.sleep(600)
  children.append(child)
os.close(start)
answers = b""
while len(answers) < 10:
  answers += os.read(done, 10)
for child in children:
  os.kill(child, 9)
  os.waitpid(child, 0)
print(bytes(sorted(answers)).decode())
"""


def test_of_ten_starts_exactly_one_gets_the_lock(tmp_path):
  """Of a new workdir, and then of one whose holder was killed."""
  for _ in range(3):
    done = subprocess.run(
        [sys.executable, "-c", _TEN, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == "Y" + "n" * 9 + "\n" and not done.stderr
    assert lock.holder(tmp_path).alive is False


def test_a_holder_that_was_replaced_ends_and_changes_nothing(tmp_path):
  with holding(tmp_path, "elsewhere") as process:
    process.send_signal(signal.SIGSTOP)
    with Lock(tmp_path, beat_seconds=600, stale_seconds=0.3):
      text = holders.read(tmp_path / holders.NAME)
      process.send_signal(signal.SIGCONT)
      assert process.wait(60) == 2
      said = process.stderr.read()
      assert said.startswith(f"error: {tmp_path} was taken over by the run on")
      assert said.count("\n") == 1 and f"pid {os.getpid()}," in said
      assert holders.read(tmp_path / holders.NAME) == text


def test_a_lock_of_another_survives_release(tmp_path):
  said = []
  with Lock(tmp_path, beat_seconds=0.02, on_lost=said.append):
    text = written(tmp_path)
    wait(lambda: said)
  assert len(said) == 1 and "the run on far (pid 7, since" in said[0]
  assert holders.read(tmp_path / holders.NAME) == text


def test_a_heartbeat_goes_on_after_the_file_was_out_of_reach(tmp_path):
  path = tmp_path / holders.NAME
  beat = lambda: (found := lock.holder(tmp_path)) is not None and found.beat
  with Lock(tmp_path, beat_seconds=0.02, on_lost=pytest.fail):
    wait(lambda: beat() > 1)
    text = path.read_bytes()
    path.unlink()
    path.mkdir()  # a file that cannot be opened
    time.sleep(0.1)
    path.rmdir()
    path.write_bytes(text)
    last = holders.parse(text).beat
    wait(lambda: beat() > last)
    path.unlink()  # removed by hand: written again
    wait(path.exists)
  assert not path.exists()


def test_on_a_server_the_token_that_stands_there_wins(
    tmp_path, monkeypatch, unwatched
):
  """Another start replaces the same dead holder in the same moment."""
  me = holders.this_process("run")
  parent = dict(pid=os.getppid(), born=holders._born(os.getppid()))
  create = holders.create

  def create_and_lose(path, who):
    assert create(path, who)
    written(tmp_path, machine=me.machine, **parent)
    return True

  monkeypatch.setattr(lock, "file_system", lambda folder: "server")
  monkeypatch.setattr(holders, "create", create_and_lose)
  with pytest.raises(UserError, match=rf"\(pid {os.getppid()}, since"):
    Lock(tmp_path, settle_seconds=0.01).acquire()
  assert lock.holder(tmp_path).pid == os.getppid()


def test_a_mounted_bucket_is_watched_for_longer(tmp_path, monkeypatch, capfd):
  written(tmp_path)
  monkeypatch.setattr(lock, "file_system", lambda folder: "mounted")
  with Lock(tmp_path, stale_seconds=0.1, settle_seconds=0.01):
    assert "waiting up to 0.2 s" in capfd.readouterr().err


def test_two_kinds_of_jobs_share_a_workdir(tmp_path):
  with Lock(tmp_path), Lock(tmp_path, name="watch.json", what="--watch"):
    match = "one --watch at a time; .* in use by the --watch on .*Wait for it"
    with pytest.raises(UserError, match=match):
      Lock(tmp_path, name="watch.json", what="--watch").acquire()
  assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_not_a_folder_is_one_line(tmp_path):
  path = tmp_path / "file"
  path.touch()
  for place in (path, path / "run"):
    with pytest.raises(UserError, match="must be a folder that can be written"):
      Lock(place).acquire()
  (tmp_path / holders.NAME).mkdir()
  with pytest.raises(UserError, match="Is a directory"):
    Lock(tmp_path).acquire()


def test_importing_the_lock_loads_nothing_heavy():
  code = """
import sys
from siglip_jax.multihost import lock
heavy = {'jax', 'numpy', 'absl', 'fsspec', 'orbax', 'grain'}
assert not heavy & {m.split('.')[0] for m in sys.modules}
"""
  subprocess.run(
      [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2]
  )
