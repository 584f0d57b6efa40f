"""What a person sees on the terminal."""

from collections.abc import Sequence
import time

from rich import console as rich_console
from rich import progress as rich_progress
from rich import table as rich_table

from siglip_jax.evals.scores import Score


class Progress:
  """A live bar on a terminal, a line an update elsewhere.

  Args:
    total_steps: where the bar ends.
    start_step: where this process starts.
    show: False on all processes but one.
    console: where to print.
  """

  def __init__(
      self, *, total_steps: int, start_step: int = 0, show: bool = True,
      console: rich_console.Console | None = None,
  ):
    self._console = console or rich_console.Console(highlight=False)
    self._total, self._start, self._show = total_steps, start_step, show
    self._begin = time.monotonic()
    self._live = show and self._console.is_terminal
    self._bar = rich_progress.Progress(
        rich_progress.TextColumn("step {task.completed}/{task.total}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[text]}"),
        rich_progress.TimeRemainingColumn(),
        console=self._console,
        disable=not self._live,
    )
    self._task = self._bar.add_task(
        "train", total=total_steps, completed=start_step, text="compiling"
    )

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *unused):
    self._bar.stop()

  def update(
      self, step: int, *, loss: float, examples_per_second: float
  ) -> None:
    """Shows a step's loss and the speed."""
    text = f"loss {loss:.3f}  {examples_per_second:.0f} examples/s"
    if self._live:
      self._bar.update(self._task, completed=step, text=text)
    elif self._show:
      spent = time.monotonic() - self._begin
      left = spent / max(step - self._start, 1) * (self._total - step)
      minutes, seconds = divmod(round(left), 60)
      self._console.print(
          f"step {step}/{self._total}  {text}  {minutes}:{seconds:02d} left"
      )


def final_table(
    scores: Sequence[Score], console: rich_console.Console | None = None
) -> None:
  """Prints scores, their 95 % intervals and chance."""
  table = rich_table.Table("metric", title="Final metrics", title_justify="left")
  for column in ("value", "95 % interval", "chance", "x chance", "n"):
    table.add_column(column, justify="right")
  for s in scores:
    table.add_row(
        s.name, f"{s.value:.1%}", f"{s.lo:.1%} to {s.hi:.1%}",
        f"{s.chance:.2%}", f"{s.value / s.chance:.0f}", str(s.n),
    )
  (console or rich_console.Console(highlight=False)).print(table)
