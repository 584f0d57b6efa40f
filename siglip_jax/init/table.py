"""A table of the weights that `config.init` loaded into a model."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from rich import console as rich_console
from rich import table as rich_table
from rich import text as rich_text

from siglip_jax.init.fit import Fitted


def show(
    paths: Mapping[str, str],
    params: Iterable[str],
    fitted: Mapping[str, Fitted],
    notes: Iterable[str] = (),
    console: rich_console.Console | None = None,
) -> None:
  """Prints what was loaded, resampled, skipped and left at its initial value.

  Args:
    paths: part -> path of its weights.
    params: parts of the model.
    fitted: part -> the result of fitting its weights.
    notes: notes to print below the table.
    console: console to print to.
  """
  table = rich_table.Table(title="Initial values", title_justify="left")
  table.add_column("part", no_wrap=True)
  table.add_column("what", no_wrap=True)
  table.add_column("arrays", justify="right", no_wrap=True)
  table.add_column("numbers", justify="right", no_wrap=True)
  table.add_column("which", overflow="fold")
  for part in params:
    if part not in fitted:
      table.add_row(part, "at random")
      continue
    for i, (what, arrays, numbers, which) in enumerate(
        _rows(fitted[part], paths[part])
    ):
      which = rich_text.Text(which)  # a path may hold [brackets]
      table.add_row("" if i else part, what, str(arrays), numbers, which)
  console = console or rich_console.Console(highlight=False)
  console.print(table)
  for note in notes:
    console.print(f"Note on {note}", markup=False, soft_wrap=True)


def _rows(fitted: Fitted, path: str) -> list[tuple[str, int, str, str]]:
  size = sum(x.size for x in fitted.arrays.values())
  rows = [("loaded", len(fitted.arrays), f"{size:,}", f"from {path}")]
  for name, how in fitted.resampled.items():
    rows.append(("resampled", 1, "", f"{name}, {how}"))
  for what, names in (
      ("skipped by dont_load", fitted.skipped),
      ("not in the model", fitted.unknown),
      ("left at random", fitted.initial),
  ):
    if names:
      rows.append((what, len(names), "", ", ".join(_grouped(names))))
  return rows


def _grouped(names: Sequence[str]) -> list[str]:
  """Groups names by their first component: "head/*" for all within head."""
  parts = (name.partition("/") for name in names)
  return list(
      dict.fromkeys(first + ("/*" if rest else "") for first, _, rest in parts)
  )
