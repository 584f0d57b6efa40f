"""Shared parts of all command lines: flags, --config and error reports."""

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
import re
import sys
import traceback
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import NO_ROOM
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

_LIBRARIES = (
    str(Path(flags.__file__).parents[1]),
    str(Path(ml_collections.__file__).parent),
    __file__,
    "<frozen",
)


def main(
    function: Callable[[Sequence[str]], int | None],
    define_flags: Callable[[], None] = lambda: None,
    *,
    arguments: bool = False,
) -> None:
  """Runs a command; bad input gives one line on stderr and status 2.

  Args:
    function: called with the command line without its flags.
    define_flags: defines the command's flags. Importing a module defines none,
      so any program can import any module and define flags of its own.
    arguments: whether the command takes arguments that are not flags.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not arguments:
      return _fail(f"Unexpected argument {argv[1]!r}: flags start with --.")
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)  # Orbax logs a lot at INFO
    try:
      return function(argv)
    except (Exception, KeyboardInterrupt) as e:
      status = report(e)
      if status is None:
        raise
      return status

  define_flags()
  app.run(guarded, flags_parser=_parse)


Fill = Callable[
    [ml_collections.ConfigDict, Sequence[tuple[str, str | bool]]], None
]


def define_config(fill: Fill) -> None:
  """Defines --config and --config.KEY, in the same way for every command.

  Args:
    fill: called with the config of the file and with (KEY, text) for each
      --config.KEY=text, in order; the text is True for --config.KEY without a
      value, and False for --noconfig.KEY. It sets these values, and the
      settings that a config file may leave out.
  """
  config_flags.DEFINE_config_file(
      "config",
      None,
      "configs/NAME.py[:arg=value,...]; --config.KEY=value changes a setting",
      lock_config=True,
      sys_argv=[""],  # --config.KEY is not left to ml_collections
  )
  flag = flags.FLAGS["config"]
  flag.parser = _ConfigParser(flag.parser, fill)


class _ConfigParser(flags.ArgumentParser):
  """A parser of --config that knows how the config is completed."""

  def __init__(self, parser: flags.ArgumentParser, fill: Fill):
    self._parser, self.fill = parser, fill

  def parse(self, argument: Any) -> Any:
    return self._parser.parse(argument)

  def flag_type(self) -> str:
    return self._parser.flag_type()


def report(e: BaseException) -> int | None:
  """Prints in one line why a program ends.

  Returns:
    The exit status; None, with nothing printed, if the error is a bug.
  """
  if isinstance(e, UserError):
    return _fail(str(e))
  if isinstance(e, TryAgain):
    return _fail(str(e), TRY_AGAIN)
  if isinstance(e, KeyboardInterrupt):
    return _fail("Interrupted. A run goes on from its newest checkpoint.")
  if isinstance(e, OSError) and e.errno in NO_ROOM:
    return _fail(
        f"The disk is full ({e.filename or e.strerror}). What was saved before"
        " is whole: free some space and start the same command again."
    )
  return None


def config() -> ml_collections.ConfigDict:
  """Returns the value of --config.

  Raises:
    UserError: the flag is missing, or its file returns no ConfigDict.
  """
  config = flags.FLAGS.config
  if config is None:
    raise UserError("--config=configs/NAME.py is needed.")
  try:
    # ml_collections reports an unreadable file only on first access.
    config.to_dict()
  except AttributeError:
    raise UserError(
        "get_config in the file of --config must return a ConfigDict; got"
        f" {config!r}."
    ) from None
  except OSError as e:
    reason = str(e).splitlines()[-1].split("failure to load: ")[-1].strip()
    raise UserError(
        f"--config must name a Python file that can be read: {reason}."
    ) from None
  return config


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; --config runs the user's file, which may raise anything."""
  try:
    parser = flags.FLAGS["config"].parser if "config" in flags.FLAGS else None
    if not isinstance(parser, _ConfigParser):
      return flags.FLAGS(argv)
    words, overrides = _split(argv)
    rest = flags.FLAGS(words)
    config = flags.FLAGS.config
    if isinstance(config, ml_collections.ConfigDict):
      parser.fill(config, overrides)
    return rest
  except UserError as e:
    sys.exit(_fail(str(e)))
  except flags.Error as e:
    # absl puts the whole traceback of a config file into its message.
    lines = [line for line in str(e).splitlines() if line.strip()]
    in_config = any(line.startswith("Traceback") for line in lines)
    sys.exit(_fail(lines[-1].split("UserError: ")[-1] if in_config else str(e)))
  except Exception as e:  # pylint: disable=broad-except
    where = _in_config(e) or f"--config cannot be used as asked: {e}"
    sys.exit(_fail(where))


def _split(
    argv: Sequence[str],
) -> tuple[list[str], list[tuple[str, str | bool]]]:
  """Returns a command line without its --config.KEY, and those as pairs."""
  command, *words = argv
  words = flags.FLAGS.read_flags_from_files(words, force_gnu=False)
  rest, overrides = [command], []
  while words and words[0] != "--":
    word = words.pop(0)
    name, equals, text = word.partition("=")
    match = re.fullmatch(r"--?(no)?config\.(.*)", name)
    if match is None or (match[1] and equals):
      rest.append(word)
      continue
    value: str | bool = text if equals else not match[1]
    # As for any flag, the value may be the next word, here unless it is a flag.
    if value is True and words and not _is_flag(words[0]):
      value = words.pop(0)
    overrides.append((match[2], value))
  return rest + words, overrides


def _is_flag(word: str) -> bool:
  return word.startswith("--") or re.match("-[a-z]", word) is not None


def _in_config(e: Exception) -> str | None:
  """Returns where in a config file `e` was raised, or None if elsewhere."""
  if isinstance(e, SyntaxError):
    return f"{e.filename}, line {e.lineno}: {type(e).__name__}: {e.msg}."
  frames = traceback.extract_tb(e.__traceback__)
  own = [f for f in frames if not f.filename.startswith(_LIBRARIES)]
  if not own:
    return None
  return f"{own[-1].filename}, line {own[-1].lineno}: {type(e).__name__}: {e}."


def _fail(message: str, status: int = BAD_INPUT) -> int:
  print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
  return status
