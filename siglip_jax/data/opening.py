"""Progress of opening data: lines on stderr, for what takes over two seconds.

Data are opened before a run has its progress bar, and by several commands.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import sys
import time
from typing import TypeVar

_FIRST = 2.0  # seconds of silence
_EVERY = 5.0  # seconds between lines
_T = TypeVar("_T")
_silent = False


def silence() -> None:
  """Prints no progress from now on; for all processes of a run but one."""
  global _silent
  _silent = True


def track(
    parts: Iterable[_T],
    what: str,
    *,
    total: int | None = None,
    size: Callable[[_T], int] = lambda _: 1,
) -> Iterator[_T]:
  """Yields the parts, and prints how many things they held so far.

  Nothing is printed for two seconds; then comes a line every five seconds, and
  a last one.

  Args:
    parts: what to yield.
    what: what is done with the things, as "Reading captions of images".
    total: number of things in all parts, if it is known.
    size: number of things in a part.
  """
  begin = time.monotonic()
  due, done = begin + _FIRST, 0
  end = "" if total is None else f"/{total}"
  for part in parts:
    yield part
    done += size(part)
    if (now := time.monotonic()) >= due:
      say(f"{what}: {done}{end}")
      due = now + _EVERY
  seconds = time.monotonic() - begin
  if seconds >= _FIRST:
    say(f"{what}: {done} in {seconds:.0f} s")


def say(line: str) -> None:
  """Prints a line on stderr, unless it is silenced."""
  if not _silent:
    print(line, file=sys.stderr, flush=True)
