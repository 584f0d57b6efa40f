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
    "files tree cli multihost plan.chips plan.hlo plan.topology plan",
    "config config.schema",
    "data",
    "workdir",
    "models sharding schedules",
    "losses optim weights",
    "step",
    "run",
    "checkpoint metrics inference.encoder inference.export",
    "init evals",
    "progress report sanity inference.model",
    "config.sources config.strings config.check",
    "embed inference preflight train plan.estimate plan.search",
    "main classify convert demo plan.__main__",
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


def test_a_config_file_needs_nothing_heavy():
  """`parse_arg` is the first line of each: it must not load what trains."""
  code = """
import siglip_jax.config, sys
heavy = {'jax', 'flax', 'orbax', 'optax', 'grain', 'cv2', 'numpy', 'scipy'}
loaded = {m.split('.')[0] for m in sys.modules}
assert not loaded & heavy, loaded & heavy
ours = sorted(m for m in sys.modules if m.startswith('siglip_jax.'))
assert ours == [
    'siglip_jax.config', 'siglip_jax.config.schema', 'siglip_jax.errors'
], ours
"""
  run(code)


def test_no_import_defines_a_flag():
  """Another program may have a --path or --out of its own."""
  code = """
from absl import flags
import importlib, pkgutil, siglip_jax
flags.DEFINE_string('path', None, '')
for m in pkgutil.walk_packages(siglip_jax.__path__, 'siglip_jax.'):
  importlib.import_module(m.name)
defined = flags.FLAGS.flags_by_module_dict()
ours = {m: [f.name for f in v] for m, v in defined.items() if 'siglip' in m}
assert not ours, ours
for name in ('config', 'workdir', 'out', 'vocab_size', 'model', 'labels'):
  assert name not in flags.FLAGS, name
"""
  run(code)


def run(code: str) -> None:
  """Runs code in a process that has imported nothing, which must succeed."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
  done = subprocess.run(
      [sys.executable, "-c", code],
      env=environment | {"TF_CPP_MIN_LOG_LEVEL": "2"},
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr


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
  run(code)
