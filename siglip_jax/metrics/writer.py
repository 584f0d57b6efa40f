"""The writer of a run's metrics: TensorBoard, W&B and metrics.jsonl agree."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

from siglip_jax.metrics import lines
from siglip_jax.metrics.board import Board
from siglip_jax.metrics.wandb_run import WandbRun

EVALS = "evals"


class MetricWriter:
  """Writes metrics to TensorBoard, W&B and metrics.jsonl.

  Each call of `write` goes to metrics.jsonl last. So a process that is killed
  leaves the others ahead of that file or level with it, and the next start
  repairs them: TensorBoard forgets the events from the step of the start on and
  gets those of the file instead, and W&B is not sent a step twice.

  Args:
    workdir: the run's folder, which must exist.
    write: True on process 0 only; other processes open and write no files.
    start: step that this process goes on from, to which metrics.jsonl must be
      rewound. None for a process that evaluates beside training: it repairs
      nothing, its events are in the subfolder `evals`, and it has a W&B run of
      its own in the same group, because neither TensorBoard nor W&B takes two
      writers.
    wandb: arguments of `WandbRun`, from config.wandb; None to leave W&B out.
    config: the run's config, for W&B.

  Raises:
    UserError: W&B is asked for and not installed.
  """

  def __init__(
      self,
      workdir: str | Path,
      *,
      write: bool,
      start: int | None = 0,
      wandb: Mapping[str, Any] | None = None,
      config: Mapping[str, Any] | None = None,
  ):
    self._workdir = Path(workdir)
    self._board = self._wandb = None
    if not write:
      return
    beside = start is None
    if wandb:
      self._wandb = WandbRun(workdir, config or {}, beside=beside, **wandb)
    folder = self._workdir / EVALS if beside else self._workdir
    self._board = Board(folder, purge=start)
    for line in lines.read(workdir):
      if line["step"] == start:
        self._board.write(line.pop("step"), _floats(line))

  def __enter__(self):
    """Returns the writer."""
    return self

  def __exit__(self, kind, *unused):
    """Closes everything; W&B shows a run as failed that an error ended."""
    self.close(0 if kind is None else 1)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes values at once; those that are not finite become null in JSON.

    Raises:
      OSError: a file cannot be written, such as on a full disk.
    """
    if self._board is None or not values:
      return
    self._board.write(step, values)
    if self._wandb is not None:
      self._wandb.write(step, values)
    lines.append(self._workdir, step, values)

  def note(self, step: int, title: str, rows: Sequence[str]) -> None:
    """Writes a table of one column for TensorBoard; nothing without rows."""
    if self._board is not None and rows:
      table = "\n".join(
          [f"| {title} |", "|---|", *(f"| `{r}` |" for r in rows)]
      )
      self._board.note(step, title, table)

  def close(self, exit_code: int = 0) -> None:
    """Closes the files, and W&B's run with the exit status of this process."""
    try:
      if self._board is not None:
        self._board.close()
    finally:
      if self._wandb is not None:
        self._wandb.close(exit_code)


def _floats(line: Mapping[str, Any]) -> dict[str, float]:
  """Returns the numbers of a line of metrics.jsonl; null becomes NaN."""
  return {
      k: math.nan if v is None else v
      for k, v in line.items()
      if v is None or isinstance(v, int | float)
  }
