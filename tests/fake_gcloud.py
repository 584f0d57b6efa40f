"""Plays `gcloud compute tpus` for tests of tpu/: a slice of folders.

A worker is a folder that is its home; `ssh --command` runs there for real. All
is in the folder $FAKE_GCLOUD: `slice.json` is the state, `calls.jsonl` what was
asked, `faults.json` what to play, each fault once: `match`, a regular
expression on the call's words, how many matches to `skip`, and what gcloud then
says and returns, `stderr` and `code`. A fault without a code takes the slice
away while main runs on it.
"""

# Others are imported where they are used: a test asks this hundreds of times.
import fcntl
import json
import os
from pathlib import Path
import re
import sys
import time

PLACE = Path(os.environ["FAKE_GCLOUD"])
GONE = "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found\n"
NO_SSH = "ssh: connect to host 10.0.0.2 port 22: Connection timed out\n"


def load(name, default):
  path = PLACE / name
  return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
  (PLACE / name).write_text(json.dumps(value))


def option(words, name):
  found = [w.partition("=")[2] for w in words if w.startswith(f"--{name}=")]
  return found[0] if found else None


def home(worker):
  return PLACE / f"worker-{worker}"


def take_fault(words):
  """The first fault that the call meets, which it uses up."""
  line = " ".join(words)
  faults = load("faults.json", [])
  for fault in faults:
    if not re.search(fault["match"], line):
      continue
    met = not fault.get("skip")
    if met:
      faults.remove(fault)
    else:
      fault["skip"] -= 1
    save("faults.json", faults)
    return fault if met else None
  return None


def give(state):
  """The slice is there, with empty homes."""
  for worker in range(state["workers"]):
    home(worker).mkdir(exist_ok=True)
  return state | {"node": "READY"}


def take_away(state):
  """As when it is pre-empted: machines, processes and disks are gone."""
  import shutil
  import signal

  for worker in range(state["workers"]):
    keeper = home(worker) / "siglip_jax_run" / "keeper"
    if keeper.exists():
      try:
        os.killpg(int(keeper.read_text()), signal.SIGKILL)
      except ProcessLookupError:
        pass
    shutil.rmtree(home(worker), ignore_errors=True)
  return state | {"node": None}


def describe(kind, words, state):
  if kind == "queued-resources" and state["queue"]:
    passed = state["queue"]
    state["queue"] = passed[1:] or passed
    if passed[0] == "ACTIVE" and not state["node"]:
      state |= give(state)
    return passed[0], state
  if kind == "tpu-vm" and state["node"]:
    counted = "networkEndpoints" in option(words, "format")
    return str(state["workers"]) if counted else state["node"], state
  return None, state


def manage(kind, verb, words):
  """create, describe and delete: what they print, and the exit code."""
  state = load("slice.json", None)
  out = ""
  if verb == "create" and kind == "tpu-vm":
    state = give(state)
  elif verb == "create":
    state["queue"] = state["waits"]
  elif verb == "describe":
    out, state = describe(kind, words, state)
  elif verb == "delete":
    state = take_away(state)
    if kind == "queued-resources":
      state["queue"] = None
  save("slice.json", state)
  return out


def ssh(words):
  import subprocess

  place = home(option(words, "worker"))
  environment = {
      "HOME": str(place),
      "PATH": f"{PLACE / 'remote'}:/usr/bin:/bin",
      "FAKE_GCLOUD": str(PLACE),
      "POLL_SECONDS": os.environ["POLL_SECONDS"],
  }
  command = ["bash", "-c", option(words, "command")]
  return subprocess.Popen(
      command, cwd=place, env=environment, start_new_session=True
  )


def preempt(words):
  """The machines are taken while a run is going on."""
  import signal

  running = ssh(words)
  state = load("slice.json", None)
  begun = PLACE / "runs.jsonl"
  while begun.read_text().count("siglip_jax.main") < state["workers"]:
    time.sleep(0.01)
  state = take_away(state)
  queue = ["SUSPENDED"] if state["queue"] else None
  save("slice.json", state | {"node": "PREEMPTED", "queue": queue})
  os.killpg(running.pid, signal.SIGKILL)
  return NO_SSH, 255


def main(words):
  with (PLACE / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with (PLACE / "calls.jsonl").open("a") as calls:
      calls.write(json.dumps(words) + "\n")
    kind, verb = words[2:4]
    fault = take_fault(words)
    if fault and "code" in fault:
      sys.stderr.write(fault["stderr"])
      return fault["code"]
    if verb not in ("ssh", "scp"):
      out = manage(kind, verb, words)
      print(
          GONE if out is None else out, file=sys.stderr if out is None else None
      )
      return int(out is None)
  if load("slice.json", None)["node"] != "READY":
    sys.stderr.write(GONE)
    return 1
  if fault:
    said, code = preempt(words)
    sys.stderr.write(said)
    return code
  if verb == "scp":
    import shutil

    shutil.copy(words[4], home(option(words, "worker")))
    return 0
  return ssh(words).wait()


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
