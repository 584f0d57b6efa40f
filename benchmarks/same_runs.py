"""Compares two finished runs of one config: was anything lost or doubled?

Parameters are compared bit for bit. Lines of metrics.jsonl are compared by all
values but those of the clock and of memory.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
import math
from pathlib import Path
import re
import struct
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto import event_pb2

import siglip_jax
from siglip_jax import metrics
from siglip_jax import tree

# Metrics that differ from run to run.
_CLOCK = r"_per_second$|_seconds$|/seconds$|wait_share$|^host/"
_EVALUATOR = r"^eval/(.*)/seconds$"
_PROTO: Any = event_pb2  # its classes are made at run time
# Names that differ with the number of processes that wrote a run.
_OF_PROCESSES = r"events\.out\.|evals$"

Key = tuple[Any, ...]  # a step, and the evaluator if it is one of its lines
Values = Mapping[str, float | None]


def differences(
    one: Path, other: Path, *, more: Set[int] = frozenset()
) -> dict[str, list[str]]:
  """Returns the name of each check, and what it found to differ.

  Args:
    one: workdir of the undisturbed run.
    other: workdir of the other run, with the same steps, which must be equal.
    more: steps at which the other run alone may have evaluations.
  """
  logged = [training(w) for w in (one, other)]
  scored = [evaluations(w) for w in (one, other)]
  extra = more - {step for step, _ in scored[0]}
  added = {k: v for k, v in scored[1].items() if k[0] in extra}
  kept = {k: v for k, v in scored[1].items() if k not in added}
  twice = [f"{_named(k)}: twice" for k, v in added.items() if len(v) > 1]
  return {
      "parameters": parameters(one, other),
      "lines of training": _compared(*logged),
      "evaluations": _compared(scored[0], kept) + twice,
      "TensorBoard": board(one) + board(other),
      "files": files(one, other),
  }


def parameters(one: Path, other: Path) -> list[str]:
  """Returns the names of the parameters that differ in any bit."""
  a, b = (tree.flatten(siglip_jax.load(w).params) for w in (one, other))
  return [
      name
      for name in sorted(a.keys() | b.keys())
      if name not in a
      or name not in b
      or np.asarray(a[name]).tobytes() != np.asarray(b[name]).tobytes()
  ]


def training(workdir: Path) -> dict[Key, list[Values]]:
  """Returns step -> the lines of training, without clock and memory."""
  found: dict[Key, list[Values]] = {}
  for line in metrics.read(workdir):
    if "train/loss" in line:
      found.setdefault((line["step"],), []).append(_steady(line))
  return found


def evaluations(workdir: Path) -> dict[Key, list[Values]]:
  """Returns (step, evaluator) -> its lines; a line without a mark has none."""
  found: dict[Key, list[Values]] = {}
  for line in metrics.read(workdir):
    if "train/loss" not in line:
      marks = [m[1] for name in line if (m := re.match(_EVALUATOR, name))]
      key = (line["step"], "+".join(marks) or "no mark")
      found.setdefault(key, []).append(_steady(line))
  return found


def board(workdir: Path) -> list[str]:
  """Returns where the events and metrics.jsonl disagree; both in float32."""
  shown = {**events(workdir), **events(workdir / "evals")}
  written = {
      (summary.scalar(name, 0.0).value[0].tag, line["step"]): math.nan
      if value is None
      else value
      for line in metrics.read(workdir)
      for name, value in line.items()
      if name != "step"
  }
  return [
      f"{workdir.name}: {name} of step {step}"
      for name, step in sorted(shown.keys() | written.keys())
      if not _equal(shown.get((name, step)), written.get((name, step)))
  ]


def events(folder: Path) -> dict[tuple[str, int], float]:
  """Returns (tag, step) -> value, as TensorBoard shows the folder.

  A file that begins with a start at a step hides what earlier files have from
  that step on.
  """
  shown: dict[tuple[str, int], float] = {}
  for path in sorted(folder.glob("events.out.*")):
    for event in _records(path):
      if event.HasField("session_log"):
        shown = {k: v for k, v in shown.items() if k[1] < event.step}
      for value in event.summary.value:
        shown[value.tag, event.step] = value.simple_value
  return shown


def files(one: Path, other: Path) -> list[str]:
  """Returns the names at the top of a workdir that only one of the two has."""
  names = [
      {p.name for p in w.iterdir() if not re.match(_OF_PROCESSES, p.name)}
      for w in (one, other)
  ]
  return sorted(names[0] ^ names[1])


def _steady(line: Mapping[str, Any]) -> Values:
  return {k: v for k, v in line.items() if not re.search(_CLOCK, k)}


def _compared(
    expected: Mapping[Key, Sequence[Values]],
    actual: Mapping[Key, Sequence[Values]],
) -> list[str]:
  """Returns which lines were lost, doubled or changed."""
  found = []
  for key in sorted(expected.keys() | actual.keys()):
    a, b = expected.get(key, ()), actual.get(key, ())
    if len(a) > len(b):
      found.append(f"{_named(key)}: lost")
    elif len(a) < len(b):
      found.append(f"{_named(key)}: {'twice' if a else 'added'}")
    else:
      names = {
          name
          for x, y in zip(a, b, strict=True)
          for name in x.keys() | y.keys()
          if x.get(name, "missing") != y.get(name, "missing")
      }
      found += [f"{_named(key)}: {name}" for name in sorted(names)]
  return found


def _named(key: Key) -> str:
  return " ".join(["step", *map(str, key)])


def _records(path: Path) -> list[Any]:
  """Returns the whole events of a file; the last may be cut short."""
  data, at, found = path.read_bytes(), 0, []
  while at + 12 <= len(data):
    (size,) = struct.unpack_from("<Q", data, at)
    if at + size + 16 > len(data):
      break
    # Between the checksum of the size and its own.
    found.append(_PROTO.Event.FromString(data[at + 12 : at + 12 + size]))
    at += size + 16
  return found


def _equal(a: float | None, b: float | None) -> bool:
  if a is None or b is None:
    return False
  return bool(np.array_equal(np.float32(a), np.float32(b), equal_nan=True))
