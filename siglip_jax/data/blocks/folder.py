"""The folder through which the process that fetches blocks hands them on.

A block that is there is the file NUMBER. One that is being fetched is the file
NUMBER.part, which grows; one that is in line for it is the empty file
NUMBER.next. Readers in other processes look at these files alone, so nothing
else passes between the processes.
"""

import os
from pathlib import Path
import time

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.01  # seconds between two looks


class Folder:
  """A folder of blocks, as its readers see it. Pickles are small.

  Args:
    path: the folder.
    patience: see the attribute.
    first: the number that block 0 of the source has in the folder.

  Attributes:
    path: the folder.
    patience: seconds that a reader waits for a block that is in line, or that
      is being fetched and did not grow for so long.
    waited: seconds that readers of this process waited, in all threads.
    missed: number of reads that waited in vain.
  """

  def __init__(
      self, path: str | os.PathLike, patience: float = 1.0, first: int = 0
  ):
    self.path, self.patience, self._first = os.fspath(path), patience, first
    self.waited, self.missed = 0.0, 0

  def __reduce__(self):
    return Folder, (self.path, self.patience, self._first)

  def beginning(self, first: int) -> "Folder":
    """Returns the same folder for a source whose block 0 is `first` here."""
    return Folder(self.path, self.patience, self._first + first)

  def whole(self, block: int) -> str:
    """Returns the path of a block that is there."""
    return f"{self.path}/{self._first + block}"

  def part(self, block: int) -> str:
    """Returns the path of a block that is being fetched."""
    return f"{self.whole(block)}.part"

  def next(self, block: int) -> str:
    """Returns the path that says that a block is in line."""
    return f"{self.whole(block)}.next"

  def wait(self, block: int) -> Path | None:
    """Returns the file of a block, or None if the reader must do without.

    A reader waits for a block in line, because reading past it would only
    lengthen the line. It does not wait long for one whose request hangs, nor at
    all for one that nobody fetches. The file may be deleted as soon as the
    samples that the schedule takes from it are delivered: a reader that takes
    others must expect that it is gone.
    """
    whole = self.whole(block)
    if os.path.exists(whole):
      return Path(whole)
    begin, pause = time.monotonic(), _FIRST_PAUSE
    while (idle := self._idle(block, begin)) is not None:
      if idle >= self.patience:
        self.missed += 1
        break
      time.sleep(pause)
      pause = min(1.5 * pause, _LONGEST_PAUSE)
    self.waited += time.monotonic() - begin
    # It may have come between the looks at its names.
    return Path(whole) if os.path.exists(whole) else None

  def _idle(self, block: int, begin: float) -> float | None:
    """Returns the seconds without progress; None if the block is not coming."""
    for _ in range(2):  # it may go from the line to its fetch between the looks
      try:
        return time.time() - os.stat(self.part(block)).st_mtime
      except FileNotFoundError:
        if os.path.exists(self.next(block)):
          return time.monotonic() - begin
    return None
