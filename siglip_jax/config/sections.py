"""The sections of a config: their keys, with types, by where they stand."""

from collections.abc import Mapping
import functools
from typing import Any

import ml_collections

from siglip_jax import init
from siglip_jax import losses
from siglip_jax import metrics
from siglip_jax import optim
from siglip_jax import sharding
from siglip_jax.config import options
from siglip_jax.config import schema
from siglip_jax.config.sources import BOTH
from siglip_jax.config.sources import DATA
from siglip_jax.config.sources import LOADER
from siglip_jax.data import kinds
from siglip_jax.evals import EVALUATORS
from siglip_jax.models.text import TextTransformer
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.models.vit import VIT
from siglip_jax.multihost import watchdog

Config = Mapping[str, Any] | ml_collections.ConfigDict

_PREPROCESS = {"image": str, "text": str}
_EVAL = {"type": str, "every_steps": int}
# Sections that hold exactly one constructor's arguments.
CONSTRUCTORS = {
    "ckpt": options.Ckpt,
    "early_stopping": options.EarlyStopping,
    "mesh": sharding.make_mesh,
    "model": TwoTowers,
    "optim": optim.make,
    "wandb": options.Wandb,
    "watchdog": watchdog.Limits,
}


def keys(config: Config, *path: str) -> tuple[dict[str, Any], list[str]]:
  """Returns key -> type hint of a section, and the keys it must have.

  Args:
    config: the config, or a part of it that has the section.
    *path: names of the section and of those around it, such as "model",
      "image"; none for the config itself.
  """
  match path:
    case ():
      return schema.TOP_LEVEL | schema.OPTIONAL, list(schema.TOP_LEVEL)
    case ("data",):
      known, required = schema.keys(kinds.make)
      return known | DATA | LOADER | BOTH, [*required, *DATA]
    case ("data", "mix"):
      known, required = schema.keys(kinds.make)
      return known | {"weight": float, "title": str}, [*required, "weight"]
    case ("preprocess",):
      return _PREPROCESS | {"variant": str}, list(_PREPROCESS)
    case ("model", "image"):
      return _tower(config, "image", VIT)
    case ("model", "text"):
      return _tower(config, "text", TextTransformer)
    case ("loss",):
      loss = losses.LOSSES.get(_name(config, "loss", "name"))
      functions = [losses.make] + ([loss.function] if loss else [])
      return schema.keys(*functions, passed=("mesh", "axis"))
    case ("optim", "options"):
      name = _name(config, "optim", "name") or "adam"
      return schema.keys(*filter(None, [optim.DIRECTIONS.get(name)]))
    case ("profile",):
      return schema.keys(metrics.Profiler, passed=("workdir",))
    case ("init",):
      return dict.fromkeys(init.PARTS, Mapping), []
    case ("init", part) if part in init.PARTS:
      return schema.keys(init.Part)
    case ("evals", name):
      kind = EVALUATORS.get(_name(config, "evals", name, "type"))
      known, required = schema.keys(*filter(None, [kind]), kinds.make)
      return known | _EVAL, [*_EVAL, *required]
    case (name,) if name in CONSTRUCTORS:
      return schema.keys(CONSTRUCTORS[name])
  return {}, []


def check(config: Mapping, *path: str) -> None:
  """Checks the keys of a section and the types of its values.

  Args:
    config: the config as a dict.
    *path: see `keys`.

  Raises:
    UserError: a key is unknown or missing, or a value has the wrong type.
  """
  section = functools.reduce(lambda c, name: c[name], path, config)
  schema.check_keys(".".join(("config", *path)), section, *keys(config, *path))


def _tower(config: Config, name: str, module: type):
  known, required = schema.keys(module, passed=("parent", "name"))
  variant = _name(config, "model", name, "variant")
  return known | {"variant": str}, [] if variant else required


def _name(config: Any, *path: str) -> str:
  """Returns the string at a path, or "" if there is none."""
  for name in path:
    # A ConfigDict is not a Mapping.
    if not hasattr(config, "keys") or name not in config:
      return ""
    config = config[name]
  return config if isinstance(config, str) else ""
