"""Imports point one way, and importing does nothing else."""

import os
from pathlib import Path
import subprocess
import sys

import house
import pytest


def test_imports_point_one_way():
  for name, imported in house.imports().items():
    if name == "siglip_jax":
      continue  # The public names, loaded on first use.
    for other in imported:
      if other.startswith("siglip_jax."):
        up = house.level(other) > house.level(name)
        assert not up, f"{name} imports {other}"


def test_the_house_is_drawn_as_it_is_today():
  drawn = Path("docs/architecture.svg").read_text()
  assert drawn == house.draw(), "run python docs/house.py"


def test_at_most_18_modules_lie_at_the_top_level():
  top = [p.stem for p in Path("siglip_jax").glob("*.py")]
  assert len(set(top) - {"__init__"}) <= 18, top


def test_every_module_has_a_test_of_its_name():
  missing = []
  for path in Path("siglip_jax").rglob("*.py"):
    parts = path.relative_to("siglip_jax").with_suffix("").parts
    *folder, name = parts
    if name == "__init__":
      if not folder or len(path.read_text().splitlines()) <= 12:
        continue  # a docstring and names
      name = folder[-1]
    name = name.strip("_")
    test = Path("tests", *folder, f"test_{name}.py")
    if not test.exists():
      missing.append(f"{path} has no {test}")
  assert not missing, "\n".join(missing)


def test_nothing_imports_in_a_circle():
  found = house.imports()
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
      for name, imported in house.imports().items()
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


def test_what_only_runs_need_is_imported_by_runs():
  """Orbax alone takes longer to import than a model to be read."""
  code = """
import sys
from siglip_jax import inference
heavy = {'orbax', 'optax', 'grain'} & {m.split('.')[0] for m in sys.modules}
assert not heavy, heavy
assert not [m for m in sys.modules if m.startswith('siglip_jax.multihost')]
"""
  run(code)


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
