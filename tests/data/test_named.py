"""Flags name one kind of data, with its arguments."""

from absl import flags
import fakes
import pytest

from siglip_jax.data import named
from siglip_jax.errors import UserError


@pytest.fixture
def parsed(monkeypatch):
  """Parses a command line with the flags alone."""

  def parse(*arguments):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    defined = flags.DEFINE_string
    monkeypatch.setattr(
        flags,
        "DEFINE_string",
        lambda *args: defined(*args, flag_values=values),
    )
    named.define_flags()
    monkeypatch.setattr(flags, "DEFINE_string", defined)
    values(["command", *arguments])

  return parse


def test_the_flags_name_the_data(parsed, tmp_path):
  fakes.captioned_folder(tmp_path, 200)
  parsed(f"--path={tmp_path}", "--split=all")
  assert len(named.source()) == 200
  rest = []
  for split in ("train", "validation"):
    parsed(f"--path={tmp_path}", f"--split={split}")
    rest.append(len(named.source()))
  assert sum(rest) == 200 and rest[0] > rest[1]
  with pytest.raises(UserError, match="must have 'caption', as `text`"):
    named.source("caption")


@pytest.mark.parametrize("given", [(), ("--path=x", "--tars=y")])
def test_there_is_one_kind(parsed, given):
  parsed(*given)
  with pytest.raises(UserError, match="Exactly one of --path, --name, --tars"):
    named.source()


def test_arguments_of_another_kind_are_refused(parsed):
  parsed("--path=x", "--index=y")
  with pytest.raises(UserError, match="take no 'index'"):
    named.source()
