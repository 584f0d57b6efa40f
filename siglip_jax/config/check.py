"""Checks of a config that need neither data nor devices."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import ml_collections

from siglip_jax import init
from siglip_jax import losses
from siglip_jax import metrics
from siglip_jax import optim
from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax.config import schema
from siglip_jax.config import strings
from siglip_jax.config.sources import DATA
from siglip_jax.config.sources import LOADER
from siglip_jax.data import pipeline
from siglip_jax.data import sources
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.models.text import TextTransformer
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.models.vit import VIT
from siglip_jax.multihost import watchdog


def fill(config: ml_collections.ConfigDict) -> None:
  """Adds the settings that a config file may leave out, at their defaults.

  These are config.watchdog, config.profile and the part of config.data that
  says how it is read. The defaults come from the constructors. Once added, a
  setting can be changed by a flag even if the file does not mention it. A
  section of the wrong type is left for `validate` to report.
  """
  optional = {"watchdog": watchdog.Limits, "profile": metrics.Profiler}
  with config.unlocked():
    for name, constructor in optional.items():
      if name not in config:
        config[name] = ml_collections.ConfigDict()
      _add_missing(config[name], schema.defaults(constructor))
    loader = schema.defaults(pipeline.train_iterator)
    data = config["data"] if "data" in config else None
    _add_missing(data, {k: v for k, v in loader.items() if k in LOADER})


def _add_missing(section: Any, defaults: Mapping[str, Any]) -> None:
  if isinstance(section, ml_collections.ConfigDict):
    for key, value in defaults.items():
      if key not in section:
        section[key] = value


def validate(config: ml_collections.ConfigDict) -> None:
  """Fills in the defaults, then checks all but the data and the devices.

  Raises:
    UserError: a check failed; the message says how to fix it.
  """
  fill(config)
  c = config.to_dict()
  known = schema.TOP_LEVEL | schema.OPTIONAL
  schema.check_keys("config", c, known, required=schema.TOP_LEVEL)
  for key in "total_steps batch_size image_size text_len log_steps".split():
    _at_least(1, f"config.{key}", c[key])
  _at_least(0, "config.seed", c["seed"])
  _at_least(0, "config.microbatch", c["microbatch"])
  size, part = c["batch_size"], c["microbatch"]
  if part and size % part:
    raise UserError(
        "config.microbatch must be 0 (off) or divide config.batch_size ="
        f" {size}; got {part}: the nearest batches that it divides are"
        f" {sharding.nearest_multiples(size, part)}."
    )
  _check_data(c["data"])
  schema.check_keys(
      "config.preprocess",
      c["preprocess"],
      _PREPROCESS | {"variant": str},
      required=_PREPROCESS,
  )
  strings.check(c)
  schema.check("config.mesh", c["mesh"], sharding.make_mesh)
  _check_rules("config.sharding", c["sharding"])
  schema.check("config.optim", c["optim"], optim.make)
  for key in ("schedule", "lr_mults", "wd_mults"):
    _check_rules(f"config.optim.{key}", c["optim"].get(key, ()))
  _check_loss(c["loss"])
  schema.check_keys("config.ckpt", c["ckpt"], _CKPT)
  for key in _CKPT:
    _at_least(1, f"config.ckpt.{key}", c["ckpt"][key])
  _check_process(c)
  for name, section in c["evals"].items():
    _check_eval(f"config.evals.{name}", section)
  if "init" in c:
    init.check(c["init"])
  params = _check_model(c)
  _check_embedded(c)
  _check_rules_fit(c, params)


_PREPROCESS = {"image": str, "text": str}
_CKPT = {"save_steps": int, "keep": int}


def _at_least(low: int, name: str, value: int) -> None:
  if value < low:
    kind = "a positive integer" if low else "a whole number from 0 up"
    raise UserError(f"{name} must be {kind}; got {value}.")


def _check_data(data: Mapping[str, Any]) -> None:
  own = {k: v for k, v in data.items() if k in DATA | LOADER}
  rest = {k: v for k, v in data.items() if k not in own}
  schema.check("config.data", rest, sources.make)
  schema.check_keys("config.data", own, DATA | LOADER, required=DATA)
  for key in own.keys() & LOADER.keys():
    _at_least(0, f"config.data.{key}", own[key])
  if not 0 <= own["max_replaced_share"] <= 1:
    raise UserError(
        "config.data.max_replaced_share must be in [0, 1]; got"
        f" {own['max_replaced_share']}."
    )


def _check_process(c: Mapping[str, Any]) -> None:
  schema.check("config.watchdog", c["watchdog"], watchdog.Limits)
  for key, value in c["watchdog"].items():
    if value <= 0:
      raise UserError(
          f"config.watchdog.{key} must be a positive number of seconds; got"
          f" {value}."
      )
  schema.check(
      "config.profile", c["profile"], metrics.Profiler, passed=("workdir",)
  )
  for step in c["profile"].get("steps", ()):
    if not isinstance(step, int) or step < 1:
      raise UserError(
          "config.profile.steps must be steps to trace, whole numbers from 1"
          f" up; got {step!r}."
      )


def _check_rules(name: str, rules: Sequence) -> None:
  for rule in rules:
    pair = isinstance(rule, list | tuple) and len(rule) == 2
    if not pair or not isinstance(rule[0], str):
      raise UserError(
          f"{name} must be a list of pairs (regular expression over parameter"
          f" names, value); got {rule!r}."
      )


def _check_loss(section: Mapping[str, Any]) -> None:
  name = section.get("name")
  if name not in losses.LOSSES:
    raise UserError(
        "config.loss.name must be one of"
        f" {', '.join(losses.LOSSES)}; got {name!r}."
    )
  function = losses.LOSSES[name].function
  schema.check(
      "config.loss", section, losses.make, function, passed=("mesh", "axis")
  )


def _check_eval(name: str, section: Mapping[str, Any]) -> None:
  kind = section.get("type")
  if kind not in EVALUATORS:
    raise UserError(
        f"{name}.type must be one of {', '.join(sorted(EVALUATORS))}; got"
        f" {kind!r}."
    )
  own = {k: v for k, v in section.items() if k in ("type", "every_steps")}
  schema.check_keys(name, own, {"type": str, "every_steps": int})
  _at_least(1, f"{name}.every_steps", section["every_steps"])
  rest = {k: v for k, v in section.items() if k not in own}
  schema.check(name, rest, EVALUATORS[kind], sources.make)


def _check_model(c: Mapping[str, Any]) -> dict:
  """Returns all parameter shapes; making them runs the model's own checks."""
  model, side = c["model"], c["image_size"]
  schema.check("config.model", model, TwoTowers)
  for tower, module in (("image", VIT), ("text", TextTransformer)):
    schema.check(
        f"config.model.{tower}",
        {k: v for k, v in model[tower].items() if k != "variant"},
        module,
        passed=("parent", "name"),
        complete="variant" not in model[tower],
    )
    for key in ("patch", "num_heads", "width", "mlp_dim", "vocab_size"):
      _at_least(1, f"config.model.{tower}.{key}", model[tower].get(key, 1))
    _at_least(0, f"config.model.{tower}.depth", model[tower].get("depth", 1))
  # Build the image tower even if it is unused, because stored embeddings are
  # checked against it.
  towers = TwoTowers(**model | {"embedded": False})
  try:
    return towers.shapes((side, side, 3), c["text_len"])
  except UserError:
    raise
  # A bad value can raise any of these inside Flax.
  except (TypeError, ValueError, LookupError, AttributeError) as e:
    raise UserError(
        f"config.model cannot be built: {str(e).splitlines()[0]}."
    ) from None


def _check_rules_fit(c: Mapping[str, Any], params: Mapping) -> None:
  """Checks that each rule decides a parameter and no parameter lacks one."""
  if TwoTowers(**c["model"]).embedded:  # the model has no image tower
    params = {part: p for part, p in params.items() if part != "img"}
  tree.assign(c["sharding"], tree.flatten(params), what="config.sharding")
  # The data size is unknown here; one example per epoch keeps any duration in
  # epochs within the run.
  optim.make(params, c["total_steps"], c["batch_size"], 1, **c["optim"])


def _check_embedded(c: Mapping[str, Any]) -> None:
  """Checks that embeddings are given if and only if no image tower exists."""
  embedded = TwoTowers(**c["model"]).embedded
  sections = {"config.data": c["data"]}
  sections |= {f"config.evals.{name}": s for name, s in c["evals"].items()}
  for name, section in sections.items():
    if bool(section.get("embeddings")) != embedded:
      raise UserError(
          f"{name} must name a folder of `embeddings` (which siglip_jax.embed"
          " writes) if and only if config.model.embedded is True, as the model"
          f" has no image tower then; got {embedded} and"
          f" embeddings={section.get('embeddings')!r}."
      )
