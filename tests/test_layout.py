"""Imports point one way, and importing does nothing else."""

import ast
import os
from pathlib import Path
import subprocess
import sys

import pytest

import siglip_jax

ROOT = Path(siglip_jax.__file__).parent
# Each may import what is above it, and its own line.
ORDER = [
    "errors",
    "files tree cli multihost.phases multihost.messages multihost.parent",
    "multihost profiling plan.hlo plan.topology",
    "config config.schema",
    "data",
    "models sharding schedules",
    "weights losses optim",
    "step",
    "run",
    "checkpoint workdir metrics inference.encoder inference.export",
    "init evals",
    "progress report sanity inference.model",
    "config.strings config.sources config.check",
    "embed inference preflight train plan",
    "main classify convert demo",
]


def modules():
  """Name -> what it imports, anywhere in the file."""
  found = {}
  for path in sorted(ROOT.rglob("*.py")):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    name = ".".join(p for p in parts if p != "__init__")
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {a.name for a in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{name}: a relative import"
        names |= {f"{node.module}.{a.name}" for a in node.names}
    found[name] = names
  return found


def place(name: str) -> int:
  """The line of ORDER that a module stands in, by its name or its folder's."""
  level = {m: i for i, line in enumerate(ORDER) for m in line.split()}
  parts = name.removeprefix("siglip_jax.").split(".")
  for end in range(len(parts), 0, -1):
    if ".".join(parts[:end]) in level:
      return level[".".join(parts[:end])]
  raise AssertionError(f"{name} has no place in ORDER")


def test_imports_point_one_way():
  for name, imported in modules().items():
    if name == "siglip_jax":
      continue  # The public names, loaded on first use.
    for other in imported:
      if other.startswith("siglip_jax."):
        assert place(other) <= place(name), f"{name} imports {other}"


def test_nothing_imports_in_a_circle():
  found = modules()
  graph = {
      name: {i if i in found else i.rpartition(".")[0] for i in imported}
      & (found.keys() - {"siglip_jax"})
      for name, imported in found.items()
  }
  done: set[str] = set()
  while rest := {n: g - done for n, g in graph.items() if n not in done}:
    free = {n for n, g in rest.items() if not g}
    assert free, f"a circle among {sorted(rest)}"
    done |= free


@pytest.mark.parametrize("library", ["flax", "tensorflow", "torch"])
def test_libraries_stay_where_they_belong(library):
  users = {
      name
      for name, imported in modules().items()
      if any(i.split(".")[0] == library for i in imported)
  }
  if library == "flax":
    assert users and all(u.startswith("siglip_jax.models.") for u in users)
  else:
    assert not users


def test_importing_sets_nothing_and_brings_no_other_framework():
  code = """
import jax
flags = lambda: {k: jax.config._read(k) for k in jax.config.values}
before = flags()
import os, sys
chosen = lambda: {k: os.environ.get(k) for k in ('XLA_FLAGS', 'JAX_PLATFORMS')}
environment = chosen()
sys.modules |= {'tensorflow': None, 'torch': None}  # cannot be imported
import siglip_jax.train, siglip_jax.inference
changed = {k for k, v in flags().items() if k in before and before[k] != v}
assert not changed, changed
assert chosen() == environment
assert not jax._src.xla_bridge.backends_are_initialized()
"""
  environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
  done = subprocess.run(
      [sys.executable, "-c", code],
      env=environment | {"TF_CPP_MIN_LOG_LEVEL": "2"},
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr
