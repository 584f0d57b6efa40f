"""What every command does around its own main: flags, errors and statuses."""

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

def fill(config):
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


def test_a_flag_can_set_what_fill_added_to_the_config(tmp_path):
  path = tmp_path / "c.py"
  path.write_text(
      "import ml_collections\n"
      "def get_config():\n  return ml_collections.ConfigDict({'a': 2})\n"
  )
  done = run(f"--config={path}", "--config.extra=5", "--end=config")
  assert (done.returncode, done.stdout) == (0, "{'a': 2, 'extra': 5}\n")


def test_every_command_reads_its_config_alike(command):
  for module in ("main", "embed", "plan", "preflight"):
    flags = ["--workdir=x"] * (module in ("main", "preflight"))
    flags += ["--out=x"] * (module == "embed")
    for file, match in (("configs/nope.py", "nope.py"), (None, "--config=")):
      words = [f"--config={file}"] if file else []
      assert match in command.refuse(f"siglip_jax.{module}", *words, *flags)
