"""Docstrings say what they are about, and old words do not come back."""

import ast
from pathlib import Path
import re

import house
import pytest

CODE = sorted(
    p
    for folder in ("siglip_jax", "configs", "examples", "benchmarks", "tests")
    for p in Path(folder).rglob("*.py")
)
TEXTS = [
    *CODE,
    *Path("tpu").glob("*.sh"),
    *Path("docs").glob("*.md"),
    *Path(".").glob("*.md"),
    Path("siglip_jax/report.html"),
]
# Pattern -> what to write instead.
OLD = {
    r"(?<!here )\b(is|are|was) no (?!longer\b|more\b)": "is not a",
    r"\b(mend|mends|mended|mending)\b": "fix",
    r"\banew\b": "again",
    r"\bfor ever\b|\bever after\b": "forever, or from then on",
    r"\bpictures?\b": "image",
    r"\bsees? to it\b": "ensure",
}
# This file; and what happened stays in the words that it was told in.
EXCEPTIONS = ("tests/test_words.py", "CHANGELOG.md")


def docstrings(path: Path):
  """Yields name and docstring of a file's modules, classes and functions."""
  tree = ast.parse(path.read_text())
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  for node in ast.walk(tree):
    if isinstance(node, kinds) and (text := ast.get_docstring(node)):
      yield getattr(node, "name", "module"), text


@pytest.mark.parametrize(
    "path", [p for p in CODE if p.parts[0] == "siglip_jax"], ids=str
)
def test_a_docstring_opens_with_what_it_is_about(path):
  headless = [
      f"{name}: {text.splitlines()[0]}"
      for name, text in docstrings(path)
      if text.split()[0].strip("`.,:") in house.HEADLESS
  ]
  assert not headless, "\n".join(headless)


@pytest.mark.parametrize("pattern", OLD)
def test_old_words_stay_away(pattern):
  lines = [
      f"{path}:{number}: {line.strip()}"
      for path in TEXTS
      if str(path) not in EXCEPTIONS
      for number, line in enumerate(path.read_text().splitlines(), 1)
      if re.search(pattern, line)
  ]
  assert not lines, f"write {OLD[pattern]!r}:\n" + "\n".join(lines)
