"""Command lines in forks of a process that has imported everything.

`python -m siglip_jax.main` spends seconds on imports; a fork spends none. No
fork meets a device of another: the parent never touches JAX's backend.
"""

import dataclasses
import json
import os
from pathlib import Path
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """How a command ended."""

  status: int
  out: str
  err: str


class Running:
  """A command under way."""

  def __init__(self, ask, pid: int, folder: Path):
    self._ask, self._folder, self.pid = ask, folder, pid
    self._status: int | None = None

  def poll(self) -> int | None:
    """The status, None while it runs; that of a signal is negative."""
    if self._status is None:
      self._status = self._ask({"poll": self.pid})
    return self._status

  def kill(self, number: int = signal.SIGKILL) -> None:
    os.kill(self.pid, number)

  def read(self) -> tuple[str, str]:
    """What it has printed so far."""
    return tuple((self._folder / n).read_text() for n in ("out", "err"))

  def wait(self, *, status: int | None = None, limit: float = 600) -> Done:
    """Waits for the end; a status other than `status` is a failure."""
    end = time.monotonic() + limit
    while (code := self.poll()) is None:
      if time.monotonic() > end:
        self.kill()
        raise TimeoutError(f"longer than {limit} s: {self.read()}")
      time.sleep(0.02)
    out, err = self.read()
    assert status is None or code == status, f"{code}: {out}{err}"
    return Done(status=code, out=out, err=err)


def free_port() -> int:
  """A port that nobody listens on now."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


class Commands:
  """Runs `python -m MODULE ARGUMENTS`."""

  def __init__(self):
    self._folder = tempfile.TemporaryDirectory()
    self._count = 0
    # What one command compiles the next ones read.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": f"{self._folder.name}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    self._process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(Path(__file__).parent)],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
        | cache,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

  def start(self, module: str, *arguments, devices: int = 1) -> Running:
    """Starts one on so many fake devices."""
    self._count += 1
    folder = Path(self._folder.name) / str(self._count)
    folder.mkdir()
    words = [module, *map(str, arguments)]
    pid = self._ask({"folder": str(folder), "words": words, "devices": devices})
    return Running(self._ask, pid, folder)

  def run(self, module: str, *arguments, status: int | None = None) -> Done:
    return self.start(module, *arguments).wait(status=status)

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
    self._folder.cleanup()

  def _ask(self, request: dict):
    self._process.stdin.write(json.dumps(request) + "\n")
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())


# Not a script, which would put its own folder first into the path.
_SERVER = (
    "import sys; sys.path += sys.argv[1:]; import commands; commands.serve()"
)


def serve() -> None:
  """Forks a child for each line of standard input, or tells how one ended."""
  import siglip_jax.embed.encode
  import siglip_jax.inference
  import siglip_jax.train
  import siglip_jax.weights.hf_tokenizer  # noqa: F401

  for line in sys.stdin:
    request = json.loads(line)
    if "poll" in request:
      pid, status = os.waitpid(request["poll"], os.WNOHANG)
      answer = os.waitstatus_to_exitcode(status) if pid else None
    elif not (answer := os.fork()):
      _become(**request)
    print(json.dumps(answer), flush=True)


def _become(folder: str, words: list[str], devices: int) -> None:
  import jax

  for fd, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), fd)
  if devices > 1:
    jax.config.update("jax_num_cpu_devices", devices)
  status = 0
  sys.argv = words
  try:
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
  except SystemExit as e:
    status = e.code if isinstance(e.code, int) else int(e.code is not None)
  except BaseException:
    traceback.print_exc()
    status = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
