"""A reader of TensorBoard's event files, as TensorBoard reads them."""

from pathlib import Path
import struct
from typing import Any

from tensorboardX.proto import event_pb2


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
  """Returns tag -> (step, value) of each point, in the order written.

  Files are read in the order of their names. A START of a session at a step
  removes all points of that step and later that were read before it.
  """
  proto: Any = event_pb2
  points: dict[str, list[tuple[int, float]]] = {}
  for path in sorted(folder.glob("events.out.tfevents.*")):
    for record in _records(path.read_bytes()):
      event = proto.Event.FromString(record)
      if event.HasField("session_log"):
        assert event.session_log.status == proto.SessionLog.START
        points = {
            tag: [p for p in old if p[0] < event.step]
            for tag, old in points.items()
        }
      for value in event.summary.value:
        if value.WhichOneof("value") != "simple_value":
          continue
        point = event.step, value.simple_value
        points.setdefault(value.tag, []).append(point)
  return {tag: old for tag, old in points.items() if old}


def texts(folder: Path) -> list[tuple[int, str]]:
  """Returns (step, text) of each text."""
  proto: Any = event_pb2
  events = (
      proto.Event.FromString(record)
      for path in sorted(folder.glob("events.out.tfevents.*"))
      for record in _records(path.read_bytes())
  )
  return [
      (event.step, value.tensor.string_val[0].decode())
      for event in events
      for value in event.summary.value
      if value.WhichOneof("value") == "tensor"
  ]


def _records(data: bytes):
  """Yields whole records: length, its checksum, the record, its checksum."""
  while len(data) >= 12:
    (length,) = struct.unpack("<Q", data[:8])
    if len(data) < length + 16:
      return
    yield data[12 : 12 + length]
    data = data[length + 16 :]
