"""What every command line of the project does around its own main."""

from collections.abc import Callable
from collections.abc import Sequence
import sys

from absl import app
from absl import flags

from siglip_jax.errors import UserError


def run(
    main: Callable[[Sequence[str]], int | None], *, arguments: bool = False
) -> None:
  """Parses flags, runs main; bad input is one line on stderr and status 2.

  Args:
    main: called with the words of the command line that are no flags.
    arguments: whether it takes any.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not arguments:
      return _fail(f"Unexpected argument {argv[1]!r}: flags start with --.")
    try:
      return main(argv)
    except UserError as e:
      return _fail(str(e))

  app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  """Flags; what ml_collections raises for a wrong --config.key is no crash."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, UserError, OSError) as e:
    # absl puts the whole traceback of a config file into its message.
    lines = [line for line in str(e).splitlines() if line.strip()]
    in_config = any(line.startswith("Traceback") for line in lines)
    message = lines[-1].split("UserError: ")[-1] if in_config else str(e)
    sys.exit(_fail(message))
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    message = str(e.args[0]) if e.args else repr(e)
    sys.exit(_fail(f"--config cannot be set as asked: {message}"))


def _fail(message: str) -> int:
  print(f"error: {message}", file=sys.stderr)
  return 2
