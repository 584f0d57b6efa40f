"""Reading, checking and writing configs, before any device is touched."""

import ast
from collections.abc import Callable
from collections.abc import Mapping
import difflib
import inspect
import json
from pathlib import Path
from typing import Any

import ml_collections

from siglip_jax import optim
from siglip_jax import sharding
from siglip_jax.data import sources
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.models.two_towers import TwoTowers

_TOP_LEVEL = (
    "seed total_steps batch_size microbatch image_size text_len log_steps"
    " data preprocess model loss optim mesh sharding evals ckpt"
).split()


Section = Mapping | ml_collections.ConfigDict


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """Parses the part of --config after the colon: "a=1,b=text,flag".

  Values take the type of their default; a bare name is True.

  Raises:
    UserError: an unknown name, or a value of another type.
  """
  values = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    key, _, text = item.partition("=")
    if key not in defaults:
      raise UserError(
          f"Unknown config argument {key!r}; {_suggest(key, defaults)}"
      )
    values[key] = _parse_value(key, text, defaults[key])
  return ml_collections.ConfigDict(values)


def _parse_value(key: str, text: str, default: Any) -> Any:
  if isinstance(default, str):
    return text
  try:
    value = ast.literal_eval(text) if text else True
  except (ValueError, SyntaxError):
    value = text
  if isinstance(default, float) and isinstance(value, int):
    value = float(value)
  if type(value) is not type(default):
    raise UserError(
        f"Config argument {key} must be a {type(default).__name__} such as"
        f" {default!r}; got {text!r}."
    )
  return value


def validate(config: ml_collections.ConfigDict) -> None:
  """All checks that need no device.

  Raises:
    UserError: the first thing found wrong, and how to mend it.
  """
  _check_keys("config", config, _TOP_LEVEL, required=_TOP_LEVEL)
  for key in ("total_steps", "batch_size", "image_size", "text_len"):
    if not isinstance(config[key], int) or config[key] < 1:
      raise UserError(
          f"config.{key} must be a positive integer; got {config[key]!r}."
      )
  if config.microbatch < 0 or (
      config.microbatch and config.batch_size % config.microbatch
  ):
    raise UserError(
        "config.microbatch must be 0 (off) or divide config.batch_size ="
        f" {config.batch_size}; got {config.microbatch}."
    )
  check_section("model", config.model, TwoTowers)
  check_section("mesh", config.mesh, sharding.make_mesh)
  check_section("optim", config.optim, optim.make)
  data = {k: v for k, v in config.data.items() if k in _SOURCE_KEYS}
  check_section("data", data, sources.make)
  _check_keys(
      "config.data",
      config.data,
      (*_SOURCE_KEYS, "pp", "max_replaced_share", *_LOADER_KEYS),
      required=("split", "pp", "max_replaced_share"),
  )
  _check_keys(
      "config.preprocess",
      config.preprocess,
      ("image", "text"),
      required=("image", "text"),
  )
  _check_keys(
      "config.ckpt",
      config.ckpt,
      ("save_steps", "keep"),
      required=("save_steps", "keep"),
  )
  for name, section in config.evals.items():
    if section.get("type") not in EVALUATORS:
      raise UserError(
          f"config.evals.{name}.type must be one of {sorted(EVALUATORS)}; got"
          f" {section.get('type')!r}."
      )
    rest = {k: section[k] for k in section if k not in ("type", "every_steps")}
    check_section(f"evals.{name}", rest, EVALUATORS[section.type])


_SOURCE_KEYS = ("name", "path", "split", "data_dir")
_LOADER_KEYS = ("num_threads", "num_workers")


def loader_options(config: ml_collections.ConfigDict) -> dict:
  """The part of config.data that goes to the pipeline."""
  return {k: config.data[k] for k in _LOADER_KEYS if k in config.data}


def train_source(config: ml_collections.ConfigDict):
  """The source of config.data."""
  data = {k: v for k, v in config.data.items() if k in _SOURCE_KEYS}
  return sources.make(**data)


def check_section(
    name: str, section: Section, constructor: Callable[..., Any]
) -> None:
  """A section must be keyword arguments of its constructor."""
  parameters = inspect.signature(constructor).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return
  given = (
      [
          p.name
          for p in parameters.values()
          if p.kind is p.KEYWORD_ONLY and p.default is p.empty
      ]
      if name not in ("optim",)
      else ["lr", "schedule"]
  )
  _check_keys(f"config.{name}", section, parameters, required=given)


def _check_keys(name: str, section: Section, known, *, required) -> None:
  for key in section:
    if key not in known:
      raise UserError(f"Unknown key {name}.{key}; {_suggest(key, known)}")
  for key in required:
    if key not in section:
      raise UserError(f"{name}.{key} is missing; the config must set it.")


def _suggest(key: str, known) -> str:
  close = difflib.get_close_matches(key, list(known), n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"known are {', '.join(map(str, known))}."


def write(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Writes config.json, the config as resolved."""
  (workdir / "config.json").write_text(
      json.dumps(config.to_dict(), indent=2) + "\n"
  )


def read(workdir: Path) -> ml_collections.ConfigDict:
  """Reads config.json back."""
  path = workdir / "config.json"
  if not path.exists():
    raise UserError(
        f"{workdir} holds no config.json: expected the --workdir of a run."
    )
  return ml_collections.ConfigDict(json.loads(path.read_text()))
