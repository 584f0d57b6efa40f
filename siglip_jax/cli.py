"""What every command line of the project does around its own main."""

from collections.abc import Callable
from collections.abc import Sequence
import sys

from absl import app

from siglip_jax.errors import UserError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Parses flags, runs main; bad input is one line on stderr and status 2."""

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not getattr(main, "takes_arguments", False):
      return _fail(f"unexpected argument {argv[1]!r}: flags start with --")
    try:
      return main(argv)
    except UserError as e:
      return _fail(str(e))

  app.run(guarded)


def _fail(message: str) -> int:
  print(f"error: {message}", file=sys.stderr)
  return 2
