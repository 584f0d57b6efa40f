"""Runs on a slice: tpu/run.sh, watch.sh, stop.sh, logs.sh, and their faults."""

import json
import os
import re
import signal

from clouds import finish
from clouds import wait_until
import pytest

CONFIG = "configs/tiny.py:name=a"
WORKDIR = "bucket/runs/tiny"
NO_SSH = "ssh: connect to host 10.0.0.2 port 22: Connection timed out\n"


def test_arguments_reach_python_unchanged(cloud):
  hard = [
      "--config.pp=decode|resize(224)|flip_lr",
      "--config.text=lower|tokenize(model=\"c4 en\", eos='sticky')",
      "--config.a=$HOME `id` \\ ; & * ? # ! {a,b} ~ <x> %s  two",
      "--config.empty=",
      "",
      "-",
      "line\nline",
      "'",
      "é",
  ]
  done = cloud.run("run", CONFIG, WORKDIR, *hard)
  assert "siglip_jax.main on worker-0" in done.out
  for module in ("siglip_jax.preflight", "siglip_jax.main"):
    runs = cloud.runs(module)
    assert {r["worker"] for r in runs} == {"worker-0", "worker-1"}
    for run in runs:
      wanted = [f"--config={CONFIG}", f"--workdir={WORKDIR}", *hard]
      assert run["argv"] == wanted
      home = cloud.place / run["worker"]
      assert run["environment"] == {
          "TFDS_DATA_DIR": f"{home}/bucket/data",
          "GREETING": "a b",
      }
  assert len({r["code"] for r in cloud.read("runs.jsonl")}) == 1


def test_what_is_not_committed_goes_along(cloud):
  new = cloud.repo / "configs" / "new config.py"
  new.write_text("new")
  try:
    cloud.run("run", "configs/new config.py", WORKDIR)
  finally:
    new.unlink()
  there = cloud.place / "worker-1" / "siglip_jax"
  assert (there / "configs" / "new config.py").read_text() == "new"
  assert not (there / "configs" / "secret.py").exists()
  cloud.run("run", CONFIG, WORKDIR)
  assert not (there / "configs" / "new config.py").exists()


@pytest.mark.parametrize(
    "ends, status, match",
    [
        (
            dict(worker_1=[2], worker_0=[75]),
            2,
            "Worker 1 ended with 2: error: ",
        ),
        (dict(worker_0=[75], worker_1=[75]), 75, "Worker 0 ended with 75"),
        (dict(worker_0=[1], worker_1=[75]), 1, "Worker 0 ended with 1: "),
        (dict(worker_0=[0], worker_1=[139]), 75, "Worker 1 ended with 139"),
    ],
)
def test_run_ends_as_the_workers_do(cloud, ends, status, match):
  cloud.end(**ends)
  assert match in cloud.run("run", CONFIG, WORKDIR, status=status).err


def test_nothing_starts_when_the_preflight_fails(cloud):
  ends = {"siglip_jax.preflight/worker-1": [2]}
  (cloud.place / "ends.json").write_text(json.dumps(ends))
  done = cloud.run("run", CONFIG, WORKDIR, status=2)
  assert "Worker 1 ended with 2: error: ends with 2" in done.err
  assert not cloud.runs()


def test_a_slice_that_is_not_set_up_for_this_code(cloud):
  path = cloud.place / "worker-1" / "siglip_jax_venv" / "installed"
  path.write_text("other")
  message = cloud.refuse("run", CONFIG, WORKDIR)
  assert re.search("Worker 1 of siglip: .*not set up.*tpu/setup.sh", message)


def test_a_worker_that_cannot_be_reached_is_named(cloud):
  for match in (" scp .*--worker=1", "unpack.*--worker=1"):
    cloud.play(dict(match=match, code=255, stderr=NO_SSH))
    message = cloud.refuse("run", CONFIG, WORKDIR, status=75)
    assert re.search(
        "Worker 1 of siglip cannot be reached .*timed out", message
    )
  cloud.play(dict(match="--worker=1", code=255, stderr=NO_SSH))
  status = cloud.run("status").out
  assert re.search("worker 0: none - code .* disk", status)
  assert re.search("worker 1: cannot be reached: ssh: ", status)
  said = (
      "ERROR: (gcloud.auth) There was a problem refreshing your auth tokens\n"
  )
  cloud.play(dict(match="--worker=1", code=1, stderr=said))
  assert "not logged in" in cloud.refuse("run", CONFIG, WORKDIR)


def test_code_that_arrives_damaged_is_refused(cloud):
  stub = cloud.place / "remote" / "sha256sum"
  stub.write_text("#!/bin/bash\necho 0123\n")
  stub.chmod(0o755)
  message = cloud.refuse("run", CONFIG, WORKDIR, status=75)
  assert re.search("Worker 0 .*arrived damaged: its digest must be", message)


@pytest.fixture
def started(cloud):
  """A run that goes on until it is stopped, followed by run.sh."""
  cloud.end(worker_0=["never"], worker_1=["never"])
  running = cloud.start("run", CONFIG, WORKDIR)
  wait_until(lambda: len(cloud.runs()) == 2)
  yield running
  if running.poll() is None:
    cloud.run("stop", STOP_SECONDS="1")
    running.kill()
  running.wait()
  running.stdout.close()
  running.stderr.close()


def test_stop_saves_and_the_run_says_so(cloud, started):
  status = cloud.run("status").out
  assert re.search("worker 1: running - code .*main on worker-1", status)
  refused = cloud.refuse("run", CONFIG, WORKDIR)
  assert re.search("Worker 0 .*A run is going on.*tpu/stop.sh", refused)
  other = cloud.refuse("watch", CONFIG, WORKDIR, "--config.other=1")
  assert re.search("Another run is going on: siglip_jax.main .*stop.sh", other)
  cloud.run("stop")
  assert "Worker 1 ended with 75" in finish(started, status=75).err
  assert "worker 0: ended 75" in cloud.run("status").out


def test_watch_joins_the_run_and_a_stop_ends_it(cloud, started):
  watching = cloud.start("watch", CONFIG, WORKDIR)
  # run.sh followed the preflight and the run.
  wait_until(lambda: str(cloud.calls()).count("follow") == 3)
  cloud.run("stop")
  done = finish(watching, status=75)
  assert "Joining the run that is going on." in done.out
  assert "tpu/stop.sh ended the run" in done.err
  assert len(cloud.runs()) == 2


def test_a_machine_that_restarts_leaves_no_code(cloud, started):
  for worker in ("worker-0", "worker-1"):
    keeper = cloud.place / worker / "siglip_jax_run" / "keeper"
    os.killpg(int(keeper.read_text()), signal.SIGKILL)
  done = finish(started, status=75)
  assert "Worker 1 ended without a code, as when a machine" in done.err
  assert "worker 1: lost - code" in cloud.run("status").out
  cloud.run("run", CONFIG, WORKDIR)


def test_a_lost_connection_is_taken_up_again(cloud):
  cloud.end(worker_0=["follow 20"], worker_1=["follow 20"])
  cloud.play(dict(match="follow", skip=1, code=255, stderr=NO_SSH))
  done = cloud.run("run", CONFIG, WORKDIR)
  assert "connection to worker 0 was lost; the run goes on" in done.out
  assert "siglip_jax.main on worker-0" in done.out


def test_a_laptop_that_wakes_up_follows_again(cloud):
  cloud.end(worker_0=["follow 20"], worker_1=["follow 20"])
  lost = dict(code=255, stderr=NO_SSH)
  cloud.play(
      dict(match="follow", skip=1, **lost),
      *(dict(match="report", skip=2, **lost) for _ in range(2)),
  )
  done = cloud.run("run", CONFIG, WORKDIR)
  assert "siglip_jax.main on worker-0" in done.out


def test_watch_keeps_to_a_run_whose_workers_cannot_be_asked(cloud, started):
  lost = dict(match="report.*--worker=1", code=255, stderr=NO_SSH)
  cloud.play(lost, lost, lost)
  watching = cloud.start("watch", CONFIG, WORKDIR, MAX_FAILURES="2")
  wait_until(lambda: str(cloud.calls()).count("follow") == 3)
  cloud.run("stop")
  done = finish(watching, status=75)
  assert done.out.count("The workers could not be asked") == 3
  assert len(cloud.runs()) == 2


def test_watch_keeps_its_place_in_the_queue(empty_cloud):
  down = "ERROR: (gcloud) INTERNAL: an internal error occurred\n"
  empty_cloud.play(dict(match="describe siglip-queue", code=1, stderr=down))
  done = empty_cloud.run("watch", CONFIG, WORKDIR)
  assert "failed inside. Try again." in done.err
  managed = [v for v in empty_cloud.verbs() if v in ("create", "delete")]
  assert managed == ["create"]


def test_watch_makes_a_preempted_slice_again(empty_cloud):
  empty_cloud.end(worker_0=["never"], worker_1=["never"])
  empty_cloud.play(dict(match="follow.*--worker=0", skip=1))
  done = empty_cloud.run("watch", CONFIG, WORKDIR, "--config.x=it's")
  assert "siglip is NONE: making it." in done.out
  assert "siglip is PREEMPTED: making it." in done.out
  managed = [v for v in empty_cloud.verbs() if v in ("create", "delete")]
  assert managed == ["create", "delete", "create"]
  runs = empty_cloud.runs()
  assert len(runs) == 4
  assert all(r["argv"] == runs[0]["argv"] for r in runs)
  assert runs[0]["argv"][-1] == "--config.x=it's"


def test_watch_starts_again_what_a_restart_may_mend(cloud):
  cloud.end(worker_0=[137, 0], worker_1=[75, 0])
  done = cloud.run("watch", CONFIG, WORKDIR)
  assert done.out.count("starting the same command again") == 1
  assert len(cloud.runs()) == 4


def test_watch_ends_where_a_restart_cannot_help(cloud):
  cloud.end(worker_0=[75], worker_1=[2])
  done = cloud.run("watch", CONFIG, WORKDIR, status=2)
  assert "Worker 1 ended with 2" in done.err
  assert len(cloud.runs()) == 2


def test_watch_gives_up_on_what_fails_at_once_each_time(cloud):
  cloud.end(worker_0=[1] * 9)
  done = cloud.run("watch", CONFIG, WORKDIR, status=1, MAX_FAILURES="2")
  assert "early 2 times in a row" in done.err
  assert len(cloud.runs()) == 4


def test_watch_waits_for_capacity_but_not_for_quota(empty_cloud):
  full = "There is no more capacity in the zone\n"
  quota = "Quota limit has been exceeded.\n"
  empty_cloud.play(
      dict(match=" create ", code=1, stderr=full),
      dict(match=" create ", code=1, stderr=full),
      dict(match=" create ", code=1, stderr=quota),
  )
  done = empty_cloud.run("watch", CONFIG, WORKDIR, status=2, QUEUED="0")
  assert done.err.count("has no free") == 2
  assert "The quota of project" in done.err.splitlines()[-1]
