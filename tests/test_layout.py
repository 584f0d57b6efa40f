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
    "sections paths tree cli topology hlo peers phases supervise",
    "roll_call launch watchdog preemption profiling checksums",
    "data",
    "models sharding schedules",
    "convert losses optim",
    "step",
    "run predict checkpoint metrics export workdir tower_file",
    "init",
    "evals",
    "mismatch",
    "report progress preprocessing",
    "config siglip",
    "tower ready",
    "train inference estimate search album",
    "embedder model_flags",
    "main classify demo plan embed preflight convert.__main__",
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


def test_imports_point_one_way():
  level = {m: i for i, line in enumerate(ORDER) for m in line.split()}
  for name, imported in modules().items():
    if name == "siglip_jax":
      continue  # The public names, loaded on first use.
    here = name.removeprefix("siglip_jax.")
    here = here if here in level else here.split(".")[0]
    assert here in level, f"{here} has no place in ORDER"
    for other in imported:
      if not other.startswith("siglip_jax."):
        continue
      there = other.split(".")[1]
      assert level[there] <= level[here], f"{name} imports {other}"


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
