"""Reading of the rows of a batch, a few at a time, into a ring."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from siglip_jax.data.loader.ring import Arrays
from siglip_jax.data.loader.ring import Layout

LARGEST = 32  # rows


@dataclasses.dataclass(frozen=True)
class Begun:
  """An example that was read, and preprocessed but for what is done in chunks.

  Attributes:
    record: its values.
    index: its index in the source, for messages.
    beside: values that the rest of preprocessing does not see.
  """

  record: dict[str, Any]
  index: int
  beside: dict[str, Any]


@runtime_checkable
class Examples(Protocol):
  """The examples of a loader, which several threads and processes read.

  Attributes:
    batches: number of batches.
    rows: number of examples in a batch.
  """

  batches: int
  rows: int

  def begin(self, batch: int, row: int) -> Begun:
    """Reads an example."""
    ...

  def finish(self, begun: Sequence[Begun]) -> list[dict[str, Any]]:
    """Returns the values of examples in a batch."""
    ...


@dataclasses.dataclass(frozen=True)
class Task:
  """Consecutive rows of a batch, to be read into a slot of the ring."""

  batch: int
  slot: int
  first: int
  end: int


@dataclasses.dataclass(frozen=True)
class Done:
  """The outcome of a task.

  Attributes:
    task: the task.
    others: for each row, its values that do not lie in the ring.
    error: what ended the task early.
    row: the row at which it did.
  """

  task: Task
  others: Sequence[Mapping[str, Any]] = ()
  error: BaseException | None = None
  row: int = 0


class Stopped(Exception):
  """Nobody waits for the batch any more."""


def split(rows: range, in_flight: int, total: int) -> list[range]:
  """Returns rows in chunks, small enough that all threads have one.

  Args:
    rows: the rows.
    in_flight: number of threads.
    total: number of rows in a batch.
  """
  size = max(1, min(LARGEST, total // in_flight))
  return [rows[i : i + size] for i in range(0, len(rows), size)]


def one(examples: Examples, batch: int, row: int) -> dict[str, Any]:
  """Returns the values of one example."""
  return examples.finish([examples.begin(batch, row)])[0]


def run(
    task: Task,
    examples: Examples,
    layout: Layout,
    rows: Arrays,
    stopped: Callable[[], bool],
) -> Done:
  """Does a task, and returns what became of it."""
  begun: list[Begun] = []
  moved: list[Arrays] = []
  others = []
  row = task.first
  try:
    for row in range(task.first, task.end):
      if stopped():
        raise Stopped
      example = examples.begin(task.batch, row)
      moved.append(layout.move(example.record, rows, row))
      record = {**example.record, **moved[-1]}
      begun.append(dataclasses.replace(example, record=record))
    for i, values in enumerate(examples.finish(begun)):
      row = task.first + i
      others.append(layout.place(values, rows, row, moved[i]))
  # It is raised where the batch is waited for; nothing must end this thread.
  except BaseException as e:  # pylint: disable=broad-except
    return Done(task, error=e, row=row)
  return Done(task, others)
