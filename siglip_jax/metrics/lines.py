"""metrics.jsonl: one object a line, appended by one process or several."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import fcntl
import json
import math
import os
from pathlib import Path
import time
from typing import Any

from siglip_jax import files

FILE = "metrics.jsonl"
# In a line of scores that somebody asked for, and not the run.
ASKED = "eval/asked"
_LOCK_SECONDS = 10.0


def append(workdir: str | Path, step: int, values: Mapping[str, float]) -> None:
  """Appends one whole line, and returns when it is on disk.

  The file is opened for each line. So a file that another process has put in
  its place meanwhile (`rewind`) gets the line.

  Args:
    workdir: folder with the file, which is created if it is missing.
    step: step of the values.
    values: metric -> value; one that is not finite becomes null.

  Raises:
    OSError: the line cannot be written, such as on a full disk.
  """
  line: dict[str, Any] = {"step": step}
  line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
  with _opened(Path(workdir) / FILE) as fd:
    # The line of a process that was killed may lack its end.
    size = os.fstat(fd).st_size
    whole = size == 0 or os.pread(fd, 1, size - 1) == b"\n"
    text = ("" if whole else "\n") + json.dumps(line, allow_nan=False) + "\n"
    data = text.encode()
    if os.write(fd, data) < len(data):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), FILE)
    # Without fsync, a mounted bucket may hold the line on this machine only,
    # and the machine may be taken away.
    os.fsync(fd)


def read(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns all whole lines by step; none if the file is missing.

  Lines of the same step are in the file's order.
  """
  lines = (_parse(text) for text in _texts(Path(workdir) / FILE))
  whole = [line for line in lines if line is not None]
  return sorted(whole, key=lambda line: line["step"])


def rewind(workdir: str | Path, step: int) -> int:
  """Drops lines after `step`, and lines that a crash cut short.

  Scores at `step` stay: an evaluation that is on file is not made again. The
  file is replaced in one move, so a crash leaves the old or the new file; if
  there is nothing to drop, it is not touched. A line that another process
  appends at the same time is kept.

  Args:
    workdir: the run's folder.
    step: step from which the run continues.

  Returns:
    The number of dropped lines, including those cut short.
  """
  path = Path(workdir) / FILE
  if not path.exists():
    return 0
  with _opened(path):
    texts = _texts(path)
    kept = [
        text
        for text in texts
        if (line := _parse(text)) is not None and line["step"] <= step
    ]
    if len(kept) < len(texts):
      with files.replacing(path) as partial:
        partial.write_text("".join(f"{text}\n" for text in kept), "utf-8")
  return len(texts) - len(kept)


def read_own(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns what `read` does, without scores that only somebody asked for.

  Decisions of the run must not depend on those.
  """
  return [line for line in read(workdir) if ASKED not in line]


def evaluated(history: Iterable[Mapping[str, Any]], step: int) -> set[str]:
  """Returns the names of the evaluators that have scores at `step`.

  The metric eval/NAME/seconds in the line of the scores tells.
  """
  return {
      name.removeprefix("eval/").removesuffix("/seconds")
      for line in history
      if line["step"] == step
      for name in line
      if name.startswith("eval/") and name.endswith("/seconds")
  }


def _texts(path: Path) -> list[str]:
  """Returns the file's lines that are not empty; none if it is missing."""
  try:
    text = path.read_text("utf-8", errors="replace")
  except FileNotFoundError:
    return []
  return [line for line in text.split("\n") if line]


def _parse(text: str) -> dict[str, Any] | None:
  """Returns the object on a line, or None if the line is not a whole one."""
  try:
    line = json.loads(text)
  except json.JSONDecodeError:
    return None
  whole = isinstance(line, dict) and isinstance(line.get("step"), int)
  return line if whole else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
  """Opens a file to append, alone among all processes that call this.

  A file that was replaced while this process waited for the lock is opened
  again under its name. Some mounted file systems number a file differently each
  time, and some lock nothing, so this does not go on forever.
  """
  deadline = time.monotonic() + _LOCK_SECONDS
  while True:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
      _lock(fd, deadline)
      if _is(fd, path) or time.monotonic() > deadline:
        yield fd
        return
    finally:
      os.close(fd)  # Unlocks.


def _lock(fd: int, deadline: float) -> None:
  """Waits for the lock of a file, but goes on without it after the deadline."""
  while time.monotonic() < deadline:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except BlockingIOError:
      time.sleep(0.01)
    except OSError:  # A file system without locks.
      return


def _is(fd: int, path: Path) -> bool:
  """Whether an open file is the one at a path."""
  try:
    return os.path.samestat(os.fstat(fd), path.stat())
  except FileNotFoundError:
    return False
