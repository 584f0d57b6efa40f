"""docs/api.md: its examples run, its signatures are the code's."""

import doctest
import inspect
from pathlib import Path
import pkgutil
import re
import runpy
import shutil
import signal

import pytest

import siglip_jax
from siglip_jax import losses

API = Path(siglip_jax.__file__).parents[1] / "docs" / "api.md"
TEXT = API.read_text()
NAMES = re.findall(r"^### `([\w.]+)`$", TEXT, re.MULTILINE)


def blocks(language):
  """Line number -> text of the fenced blocks of a language."""
  return {
      TEXT.count("\n", 0, m.start(1)): m[1]
      for m in re.finditer(
          rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
      )
  }


SIGNATURES = {t.partition("(")[0]: t for t in blocks("python").values()}


@pytest.fixture
def namespace(trained, place, tmp_path):
  """The names that the examples use, and the handler that training sets."""
  handler = signal.getsignal(signal.SIGTERM)
  images = place / "images"
  (tmp_path / "out").mkdir()
  yield {
      "run": shutil.copytree(trained, tmp_path / "run"),
      "config": runpy.run_path(str(place / "tiny.py"))["get_config"](),
      "images": images,
      "image": images / "000.png",
      "out": tmp_path / "out",
  }
  signal.signal(signal.SIGTERM, handler)


def test_the_examples_print_what_they_say(namespace):
  runner, said = doctest.DocTestRunner(verbose=False), []
  for line, text in blocks("pycon").items():
    test = doctest.DocTestParser().get_doctest(
        text, namespace, "api.md", str(API), line
    )
    test.globs = namespace  # one for all, where get_doctest made a copy
    runner.run(test, out=said.append, clear_globs=False)
  assert not runner.failures, "".join(said)
  assert runner.tries > 60


def find(name):
  """The object of a dotted name."""
  value = pkgutil.resolve_name(name)
  owner = pkgutil.resolve_name(name.rpartition(".")[0])
  return value, inspect.isclass(owner)


def bare(name):
  """The signature of a name without annotations and without self."""
  value, is_method = find(name)
  parameters = list(inspect.signature(value).parameters.values())[is_method:]
  shown = []
  for p in parameters:
    default = p.default
    if callable(default) and default is not p.empty:
      default = ...
    shown.append(p.replace(annotation=p.empty, default=default))
  return name + str(inspect.Signature(shown)).replace("Ellipsis", "...")


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_the_codes(name):
  squeeze = lambda text: re.sub(r"\s", "", text)
  assert squeeze(SIGNATURES[name]) == squeeze(bare(name))


def test_each_entry_has_its_own_signature_and_an_example():
  assert len(NAMES) == len(set(NAMES))
  for entry in re.split(r"^##+ ", TEXT, flags=re.MULTILINE)[1:]:
    if not entry.startswith("`"):
      continue
    name = entry.split("`")[1]
    assert "```pycon\n>>> " in entry, name
    if f"```python\n{name}(" not in entry:
      assert name.endswith((".params", ".spec", ".LOSSES")), name


def test_no_public_name_is_left_out():
  public = {f"siglip_jax.losses.{n}" for n in losses.__all__}
  public |= {f"siglip_jax.{n}" for n in siglip_jax.__all__ if n != "losses"}
  public |= {
      f"siglip_jax.SigLIP.{n}"
      for n in vars(siglip_jax.SigLIP)
      if not n.startswith("_")
  }
  assert public <= set(NAMES), public - set(NAMES)


def test_the_commands_are_those_of_the_package():
  package = Path(siglip_jax.__file__).parent
  commands = set()
  for path in package.rglob("*.py"):
    if re.search(r"^  cli\.main\(", path.read_text(), re.MULTILINE):
      parts = path.relative_to(package.parent).with_suffix("").parts
      commands.add(".".join(p for p in parts if p != "__main__"))
  assert set(re.findall(r"`python -m ([\w.]+)`", TEXT)) == commands
