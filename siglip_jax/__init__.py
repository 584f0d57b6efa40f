"""SigLIP in JAX: `load(path)` for trained models, `losses` for training."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["SigLIP", "load", "losses"]


# Imported on first use: the loader's worker processes import this package and
# do not need JAX.
def __getattr__(name: str) -> Any:
  if name == "SigLIP":
    return importlib.import_module("siglip_jax.inference.model").SigLIP
  if name == "load":
    return importlib.import_module("siglip_jax.inference").load
  if name == "losses":
    return importlib.import_module("siglip_jax.losses")
  raise AttributeError(f"module 'siglip_jax' has no attribute {name!r}")
