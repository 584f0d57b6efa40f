"""A laptop with the scripts of tpu/ and a cloud that tests play."""

import json
from pathlib import Path
import shutil
import subprocess
import sys
import time

from commands import Done

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
# What the scripts need of a laptop, beside gcloud.
TOOLS = (
    *("bash", "cat", "cut", "dirname", "env", "git", "grep", "gzip", "mktemp"),
    *("rm", "sha256sum", "sleep", "tail", "tar"),
)
STUBS = {
    "python3": 'mkdir -p ~/.local/bin; cp "$(dirname "$0")/uv" ~/.local/bin/uv',
    "uv": f"""case $1 in
  venv) mkdir -p "${{@: -1}}/bin"
    ln -s {sys.executable} "${{@: -1}}/bin/python" ;;
  *) echo "$@" >>"$FAKE_GCLOUD/installs" ;;
esac""",
    "gcsfuse": 'echo "$@" >>"$FAKE_GCLOUD/mounts"',
}


def finish(running: subprocess.Popen, status: int) -> Done:
  """What it printed; it must end, and with that status."""
  try:
    out, err = running.communicate(timeout=120)
  finally:
    running.kill()
  assert running.returncode == status, out + err
  return Done(status=status, out=out, err=err)


def wait_until(condition) -> None:
  until = time.time() + 60
  while not condition():
    assert time.time() < until, "it did not come to that"
    time.sleep(0.02)


class Cloud:
  """A laptop with the scripts, and what they find in the cloud."""

  def __init__(self, repo: Path, place: Path):
    self.repo, self.place = repo, place

  def start(self, script: str, *arguments, **settings) -> subprocess.Popen:
    """`tpu/SCRIPT ARGUMENTS` with environment variables, not waited for."""
    environment = {
        "HOME": str(self.place / "laptop"),
        "PATH": f"{self.place / 'bin'}:{self.place / 'tools'}",
        "FAKE_GCLOUD": str(self.place),
        "TPU_ENV": str(self.place / "env.sh"),
        "POLL_SECONDS": "0.05",
    }
    return subprocess.Popen(
        [str(self.repo / "tpu" / f"{script}.sh"), *arguments],
        env=environment | settings,
        cwd=self.place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

  def run(self, script: str, *arguments, status=0, **settings) -> Done:
    running = self.start(script, *arguments, **settings)
    return finish(running, status=status)

  def refuse(self, script: str, *arguments, status=2, **settings) -> str:
    """The message of a script that must fail as it should: in one line."""
    done = self.run(script, *arguments, status=status, **settings)
    assert done.err.startswith("error: "), done.err
    assert done.err.count("\n") == 1, done.err
    return done.err

  def play(self, *faults) -> None:
    (self.place / "faults.json").write_text(json.dumps(faults))

  def end(self, **ends) -> None:
    """How starts of main end, by worker: `worker_0=[75, 0]`."""
    found = {
        f"siglip_jax.main/{k.replace('_', '-')}": v for k, v in ends.items()
    }
    (self.place / "ends.json").write_text(json.dumps(found))

  def state(self, **values) -> dict:
    path = self.place / "slice.json"
    state = json.loads(path.read_text()) | values
    path.write_text(json.dumps(state))
    return state

  def read(self, name: str) -> list:
    path = self.place / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def calls(self, forget=False) -> list[list[str]]:
    """What gcloud was asked, and perhaps no longer remembers."""
    calls = self.read("calls.jsonl")
    if forget:
      (self.place / "calls.jsonl").write_text("")
    return calls

  def verbs(self) -> list[str]:
    return [call[3] for call in self.calls()]

  def runs(self, module="siglip_jax.main") -> list[dict]:
    return [r for r in self.read("runs.jsonl") if r["module"] == module]


def make_checkout(repo: Path) -> Path:
  """A small checkout with the real scripts and a run that is quick."""
  shutil.copytree(ROOT / "tpu", repo / "tpu")
  (repo / "tpu" / "env.sh").unlink(missing_ok=True)
  (repo / "configs").mkdir()
  (repo / "configs" / "tiny.py").write_text("")
  (repo / "configs" / "secret.py").write_text("")
  (repo / ".gitignore").write_text("/tpu/env.sh\nsecret.py\n__pycache__/\n")
  (repo / "setup.py").write_text("")
  package = repo / "siglip_jax"
  package.mkdir()
  shutil.copy(TESTS / "fake_run.py", package / "fake_run.py")
  for name in ("main", "preflight"):
    code = f"from siglip_jax import fake_run\nfake_run.run('siglip_jax.{name}')"
    (package / f"{name}.py").write_text(code)
  subprocess.run(["git", "init", "-q", repo], check=True)
  return repo


def make_cloud(repo: Path, place: Path) -> Cloud:
  """No slice yet; one has two workers."""
  for folder, files in (("bin", ["gcloud"]), ("remote", STUBS)):
    (place / folder).mkdir()
    for name in files:
      gcloud = f'exec {sys.executable} -S {TESTS / "fake_gcloud.py"} "$@"'
      path = place / folder / name
      path.write_text(f"#!/bin/bash\n{STUBS.get(name, gcloud)}\n")
      path.chmod(0o755)
  settings = (ROOT / "tpu" / "env.example.sh").read_text()
  settings = settings.replace("PROJECT-}", "PROJECT-my-project}")
  settings = settings.replace("ACCELERATOR_TYPE-v4-8", "ACCELERATOR_TYPE-v4-16")
  settings = settings.replace("WORKER_ENV=()", "WORKER_ENV=('GREETING=a b')")
  settings = settings.replace("BUCKET-}", "BUCKET-my-bucket}")
  (place / "env.sh").write_text(settings)
  (place / "laptop").mkdir()
  (place / "tools").mkdir()
  for tool in TOOLS:
    (place / "tools" / tool).symlink_to(shutil.which(tool))
  state = dict(node=None, queue=None, workers=2, waits=["ACTIVE"])
  (place / "slice.json").write_text(json.dumps(state))
  return Cloud(repo, place)
