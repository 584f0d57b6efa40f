"""Stands for siglip_jax.main and its preflight in a checkout of tests.

Writes what it was given to `$FAKE_GCLOUD/runs.jsonl` and ends as the first of
`ends.json` says: with that exit code, or "waits" for SIGTERM as training does,
or, where that is another word, when gcloud is asked for something with it.
"""

import fcntl
import json
import os
from pathlib import Path
import signal
import sys
import time

PLACE = Path(os.environ["FAKE_GCLOUD"])


def next_end(module, worker):
  """`ends.json` has a list for `MODULE/WORKER`; after its last, 0."""
  path = PLACE / "ends.json"
  ends = json.loads(path.read_text()) if path.exists() else {}
  mine = ends.get(f"{module}/{worker}", [])
  end = mine.pop(0) if mine else 0
  path.write_text(json.dumps(ends))
  return end


def wait_for(word):
  until = time.time() + 60
  while word not in (PLACE / "calls.jsonl").read_text() and time.time() < until:
    time.sleep(0.01)


def run(module):
  worker = Path.home().name
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  with (PLACE / "run_lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    end = next_end(module, worker)
    with (PLACE / "runs.jsonl").open("a") as runs:
      record = dict(module=module, worker=worker, argv=sys.argv[1:])
      record["environment"] = {
          k: v
          for k, v in os.environ.items()
          if k in ("TFDS_DATA_DIR", "GREETING")
      }
      record["code"] = Path(".digest").read_text().strip()
      runs.write(json.dumps(record) + "\n")
  print(f"{module} on {worker}", flush=True)
  if isinstance(end, str):
    wait_for(end)
    end = 0
  if end:
    print(f"error: ends with {end}", file=sys.stderr)
  sys.exit(end)
