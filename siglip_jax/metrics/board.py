"""TensorBoard events, on disk as soon as they are written."""

from collections.abc import Mapping
from collections.abc import Sequence
import os
from pathlib import Path
import socket
import time
from typing import Any

from tensorboardX import record_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2

_PROTO: Any = event_pb2  # its classes are made at run time


class Board:
  """A file of TensorBoard events, made with the first of them.

  `tensorboardX.SummaryWriter` hands events to a thread, and its `flush` does
  not wait for that thread. This class writes in the caller's thread.

  Args:
    folder: folder of the file, created if it is missing. TensorBoard expects
      one process at a time to write in a folder.
    purge: step; TensorBoard forgets the events of earlier files from this step
      on. None forgets nothing.
  """

  def __init__(self, folder: Path, *, purge: int | None):
    # TensorBoard reads files in the order of their names. The nanoseconds and
    # the process keep two starts in one second apart.
    seconds, rest = divmod(time.time_ns(), 10**9)
    name = (
        f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}"
        f".{rest:09d}.{os.getpid()}"
    )
    self._path, self._file = folder / name, None
    if purge is not None:
      start = _PROTO.SessionLog(status=_PROTO.SessionLog.START)
      self._put([dict(step=purge, session_log=start)])

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars, and returns when they are on disk."""
    self._put(
        [
            dict(step=step, summary=summary.scalar(name, value))
            for name, value in values.items()
        ]
    )

  def note(self, step: int, title: str, text: str) -> None:
    """Writes a text in Markdown, and returns when it is on disk."""
    self._put([dict(step=step, summary=summary.text(title, text))])

  def close(self) -> None:
    """Closes the file, if anything was written."""
    if self._file is not None:
      self._file.close()

  def _put(self, events: Sequence[Mapping[str, Any]]) -> None:
    """Writes events with these fields, and returns when they are on disk."""
    if self._file is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = record_writer.RecordWriter(str(self._path))
      events = [dict(file_version="brain.Event:2"), *events]
    for fields in events:
      event = _PROTO.Event(wall_time=time.time(), **fields)
      self._file.write(event.SerializeToString())
    self._file.flush()  # with fsync
