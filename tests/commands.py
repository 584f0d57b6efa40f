"""Command lines in forks of a process that has imported everything.

`python -m siglip_jax.main` spends seconds on imports; a fork spends none. No
fork meets a device of another: the parent never touches JAX's backend.
"""

import dataclasses
import json
import os
from pathlib import Path
import runpy
import subprocess
import sys
import tempfile
import traceback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """How a command ended."""

  status: int
  out: str
  err: str


class Commands:
  """Runs `python -m MODULE ARGUMENTS`, one at a time."""

  def __init__(self):
    self._process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(Path(__file__).parent)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

  def run(self, module: str, *arguments, status: int | None = None) -> Done:
    with tempfile.TemporaryDirectory() as folder:
      request = [folder, module, *map(str, arguments)]
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
      code = int(self._process.stdout.readline())
      out, err = ((Path(folder) / n).read_text() for n in ("out", "err"))
    assert status is None or code == status, f"{code}: {out}{err}"
    return Done(status=code, out=out, err=err)

  def refuse(self, module: str, *arguments) -> str:
    """The message of a command that must fail as it should: in one line."""
    done = self.run(module, *arguments, status=2)
    assert "Traceback" not in done.err
    assert (
        done.err.startswith("error: ") and done.err.count("\n") == 1
    ), done.err
    assert not done.out
    return done.err

  def close(self) -> None:
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait(60)


# Not a script, which would put its own folder first into the path.
_SERVER = (
    "import sys; sys.path += sys.argv[1:]; import commands; commands.serve()"
)


def serve() -> None:
  """Forks a child for each line of standard input."""
  import siglip_jax.inference
  import siglip_jax.train  # noqa: F401

  for line in sys.stdin:
    folder, module, *arguments = json.loads(line)
    child = os.fork()
    if not child:
      _become(folder, module, arguments)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


def _become(folder: str, module: str, arguments: list[str]) -> None:
  for fd, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), fd)
  status = 0
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as e:
    status = e.code if isinstance(e.code, int) else int(e.code is not None)
  except BaseException:
    traceback.print_exc()
    status = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
