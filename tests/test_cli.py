"""What every command does around its own main: flags, errors and statuses."""

import ast
import errno
import subprocess
import sys

import pytest

from siglip_jax import cli
from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

COMMAND = """
from absl import flags
from siglip_jax import cli
from siglip_jax.errors import TryAgain

def fill(config, overrides):
  print(overrides)
  with config.unlocked():
    config.extra = 1

def define_flags():
  cli.define_config(fill)
  flags.DEFINE_string("end", "0", "How to end.")

def main(argv):
  if flags.FLAGS.end == "config":
    print(cli.config().to_dict())
  elif flags.FLAGS.end == "try again":
    raise TryAgain("Worker 1 is gone.")
  elif flags.FLAGS.end == "bug":
    raise ValueError("a bug")
  else:
    return int(flags.FLAGS.end)

cli.main(main, define_flags)
"""


def run(*words):
  return subprocess.run(
      [sys.executable, "-c", COMMAND, *map(str, words)],
      capture_output=True,
      text=True,
      check=False,
  )


@pytest.mark.parametrize(
    "e, status, line",
    [
        (UserError("No\n  such file."), BAD_INPUT, "No such file."),
        (TryAgain("Gone."), TRY_AGAIN, "Gone."),
        (
            KeyboardInterrupt(),
            BAD_INPUT,
            "Interrupted. A run goes on from its newest checkpoint.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            BAD_INPUT,
            "The disk is full (/a/b). What was saved before is whole: free some"
            " space and start the same command again.",
        ),
    ],
)
def test_what_is_foreseen_is_one_line_and_a_status(capsys, e, status, line):
  assert cli.report(e) == status
  assert capsys.readouterr().err == f"error: {line}\n"


def test_a_bug_is_left_to_python(capsys):
  for e in (ValueError("x"), OSError(errno.ENOENT, "x"), SystemExit(3)):
    assert cli.report(e) is None
  assert capsys.readouterr() == ("", "")
  done = run("--end=bug")
  assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_commands_own_status_and_errors_are_those_of_the_process():
  for end, status, err in (
      ("3", 3, ""),
      ("try again", TRY_AGAIN, "error: Worker 1 is gone.\n"),
  ):
    done = run(f"--end={end}")
    assert (done.returncode, done.stderr) == (status, err)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "c.py"
  path.write_text(
      "import ml_collections\n"
      "def get_config():\n  return ml_collections.ConfigDict({'a': 2})\n"
  )
  return path


def test_config_flags_reach_fill_as_they_are_written(file, tmp_path):
  (tmp_path / "flags").write_text("--config.from.file=1\n")
  done = run(
      "--config.before=1",
      f"--config={file}",
      "-config.a=b=c, d",
      "--config.empty=",
      "--config.next",
      "[1, 2]",
      "--config.negative",
      "-1.5",
      "--config.on",
      "--noconfig.off",
      f"--flagfile={tmp_path / 'flags'}",
      "--config.last",
      "--end=config",
  )
  assert (done.returncode, done.stderr) == (0, "")
  given, config = done.stdout.splitlines()
  assert ast.literal_eval(given) == [
      ("before", "1"),
      ("a", "b=c, d"),
      ("empty", ""),
      ("next", "[1, 2]"),
      ("negative", "-1.5"),
      ("on", True),
      ("off", False),
      ("from.file", "1"),
      ("last", True),
  ]
  assert config == "{'a': 2, 'extra': 1}"


@pytest.mark.parametrize(
    "words, match",
    [
        (["--noconfig.a=3"], "Unknown command line flag 'noconfig.a'"),
        (["--confg.a=3"], "Unknown command line flag 'confg.a'"),
        (["--", "--config.a=3"], "Unexpected argument '--config.a=3'"),
        (["--config.a=3"], "--config=configs/NAME.py is needed"),
    ],
)
def test_other_words_are_refused_in_one_line(file, words, match):
  words = words if "needed" in match else [f"--config={file}", *words]
  done = run(*words, "--end=config") if "--" not in words else run(*words)
  assert done.returncode == BAD_INPUT
  assert done.stderr.count("\n") == 1 and match in done.stderr


LOCK = (
    '--config.optim.schedule=[("img/.*", None), (".*", dict(decay="cosine"))]'
)


def test_a_run_takes_lists_and_settings_that_its_file_leaves_out(
    command, place
):
  """They pass every check that precedes the data, which are not there."""
  words = [
      "siglip_jax.main",
      f"--workdir={place / 'overridden'}",
      "--config=configs/folder.py:path=gone,b",
  ]
  for flag in (LOCK, "--config.model.remat=full", "--config.optim.name=lion"):
    message = command.refuse(*words, flag)
    assert "There is no folder gone,b" in message
  for flag, match in (
      (LOCK.replace("None", "Non"), "a Python literal such as"),
      (LOCK.replace("cosine", "cosin"), "decay must be cosine"),
      ('--config.optim.lr_mults=[(".*", "x")]', "lr_mults of '.*' must be a"),
      ("--config.optim.schedule=[('.*', 3)]", "arguments such as dict(decay="),
      ("--config.optim.nme=lion", "sets no 'nme'; did you mean 'name'"),
      ("--config.model.dtype=float16", "gradients underflow in float16"),
  ):
    assert match in command.refuse(*words, flag)


def test_every_command_reads_its_config_alike(command):
  for module in ("main", "embed", "plan", "preflight"):
    flags = ["--workdir=x"] * (module in ("main", "preflight"))
    flags += ["--out=x"] * (module == "embed")
    for file, match in (("configs/nope.py", "nope.py"), (None, "--config=")):
      words = [f"--config={file}"] if file else []
      assert match in command.refuse(f"siglip_jax.{module}", *words, *flags)
