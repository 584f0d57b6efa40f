"""Terminal output: progress bars and the final table of scores."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import time
from typing import Any

from rich import console as rich_console
from rich import progress as rich_progress
from rich import table as rich_table
from rich import text as rich_text

from siglip_jax.evals.scores import Score

_FILE_WIDTH = 400  # columns, so that no name in a log file is folded


class Progress:
  """The progress of training: a live bar on a terminal, lines elsewhere.

  Args:
    total_steps: step at which the bar ends.
    start_step: step at which this process starts; the time left is estimated
      from the steps after it.
    show: False on all processes but one.
    console: console to print on.
  """

  def __init__(
      self,
      *,
      total_steps: int,
      start_step: int = 0,
      show: bool = True,
      console: rich_console.Console | None = None,
  ):
    self._console = console or rich_console.Console(highlight=False)
    self._total, self._start, self._show = total_steps, start_step, show
    self._begin = time.monotonic()
    self._live = show and self._console.is_terminal
    self._bar = rich_progress.Progress(
        rich_progress.TextColumn(
            "{task.description} {task.completed}/{task.total}", markup=False
        ),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[text]}"),
        console=self._console,
        disable=not self._live,
    )
    self._task = self._bar.add_task(
        "step", total=total_steps, completed=start_step, text="compiling"
    )
    self._evaluation: rich_progress.TaskID | None = None

  def __enter__(self):
    """Starts drawing."""
    self._bar.start()
    return self

  def __exit__(self, *unused):
    """Leaves the last state on the terminal."""
    self._bar.stop()

  def update(
      self, step: int, *, loss: float, examples_per_second: float
  ) -> None:
    """Shows a step's loss, the speed and the time left at this pace."""
    text = (
        f"loss {loss:.2f} {examples_per_second:.0f} examples/s"
        f" {self._left(step)} left"
    )
    if self._live:
      self._bar.update(self._task, completed=step, text=text)
    elif self._show:
      # A log file has no width, so lines must not be wrapped.
      self._console.print(f"step {step}/{self._total} {text}", soft_wrap=True)

  @contextlib.contextmanager
  def evaluating(self, name: str) -> Iterator[None]:
    """Shows a second bar, on a terminal, for the batches that pass `track`."""
    self._evaluation = self._bar.add_task(
        f"evaluating {name}", total=0, text=""
    )
    try:
      yield
    finally:
      self._bar.remove_task(self._evaluation)
      self._evaluation = None

  def track(self, batches: Iterable[Any], count: int) -> Iterator[Any]:
    """Yields all `count` batches and advances the evaluation's bar."""
    task = self._evaluation
    if task is None:
      yield from batches
      return
    before = self._bar.tasks[self._bar.task_ids.index(task)].total or 0
    self._bar.update(task, total=before + count)
    for batch in batches:
      yield batch
      self._bar.advance(task)

  def _left(self, step: int) -> str:
    spent = time.monotonic() - self._begin
    return _clock(spent / max(step - self._start, 1) * (self._total - step))


class Pace:
  """The progress of a job: a live bar on a terminal, lines elsewhere.

  Args:
    what: name of the things counted, in the plural.
    total: count at which the job ends.
    show: False on all processes but one.
    console: console to print on.
  """

  def __init__(
      self,
      what: str,
      *,
      total: int,
      show: bool = True,
      console: rich_console.Console | None = None,
  ):
    self._console = console or rich_console.Console(highlight=False)
    self._what, self._total, self._show = what, total, show
    self._first: tuple[int, float] | None = None
    self._bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.completed}/{task.total}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
        console=self._console,
        disable=not (show and self._console.is_terminal),
    )
    self._task = self._bar.add_task("compiling", total=total)

  def __enter__(self):
    """Starts drawing."""
    self._bar.start()
    return self

  def __exit__(self, *unused):
    """Leaves the last state on the terminal."""
    self._bar.stop()

  def update(self, done: int, note: str | None = None) -> None:
    """Shows the speed and the time left, and prints a line if there is a note.

    The speed counts from the first update, because the time before it includes
    compiling.

    Args:
      done: count reached.
      note: start of the printed line.
    """
    now = time.monotonic()
    if self._first is None:
      self._first = done, now
    speed = (done - self._first[0]) / max(now - self._first[1], 1e-9)
    text = self._what
    if speed:
      left = _clock((self._total - done) / speed)
      text = f"{self._what}, {speed:.0f}/s, {left} left"
    self._bar.update(self._task, completed=done, description=text)
    if note and self._show:
      line = f"{note}: {done}/{self._total} {text}"
      self._console.print(line, soft_wrap=True)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


def final_table(
    scores: Sequence[Score], console: rich_console.Console | None = None
) -> None:
  """Prints the scores with their 95 % intervals and chance levels.

  Off a terminal, the table is as wide as its names: a file has no width.
  """
  table = rich_table.Table(title="Final metrics", title_justify="left")
  table.add_column("metric", overflow="fold")
  for column in ("value", "95 % interval", "chance", "x chance", "n"):
    table.add_column(column, justify="right", no_wrap=True)
  for s in scores:
    table.add_row(
        rich_text.Text(s.name),  # a name may hold [brackets]
        s.value_text,
        s.interval_text,
        s.chance_text,
        s.times_chance,
        str(s.n),
    )
  console = console or rich_console.Console(highlight=False)
  if not console.is_terminal:
    console.width = max(console.width, _FILE_WIDTH)
  console.print(table)
