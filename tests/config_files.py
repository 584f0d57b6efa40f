"""The configs of this repository, by name."""

import importlib.util
from types import ModuleType

import ml_collections


def get(
    name: str, arg: str | None = None
) -> tuple[ModuleType, ml_collections.ConfigDict]:
  """Returns the module configs/NAME.py and the config it makes of `arg`."""
  spec = importlib.util.spec_from_file_location(name, f"configs/{name}.py")
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, module.get_config(arg).lock()
