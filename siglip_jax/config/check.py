"""Checks of a config that need neither data nor devices."""

from collections.abc import Iterable
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
from siglip_jax.config import options
from siglip_jax.config import overrides as overrides_lib
from siglip_jax.config import schema
from siglip_jax.config import sections
from siglip_jax.config import strings
from siglip_jax.config.sources import BOTH
from siglip_jax.config.sources import LOADER
from siglip_jax.data import pipeline
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.evals import SCORES
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.multihost import watchdog


def fill(
    config: ml_collections.ConfigDict,
    overrides: Iterable[tuple[str, str | bool]] = (),
) -> None:
  """Sets overridden settings, then adds those that a config file may leave out.

  The latter are config.watchdog, config.profile, the part of config.data that
  says how it is read, and the optional settings of config.ckpt,
  config.early_stopping and config.wandb; the defaults come from the
  constructors. A section of the wrong type is left for `validate` to report.

  Args:
    config: the config, which is changed.
    overrides: see `overrides.apply`.

  Raises:
    UserError: an override is invalid.
  """
  overrides_lib.apply(config, overrides)
  always = {"watchdog": watchdog.Limits, "profile": metrics.Profiler}
  if_present = {
      "ckpt": options.Ckpt,
      "early_stopping": options.EarlyStopping,
      "wandb": options.Wandb,
  }
  with config.unlocked():
    for name in always.keys() - config.keys():
      config[name] = ml_collections.ConfigDict()
    for name, constructor in (always | if_present).items():
      if name in config:
        _add_missing(config[name], schema.defaults(constructor))
    loader = schema.defaults(pipeline.train_iterator)
    data = config["data"] if "data" in config else None
    _add_missing(data, {k: v for k, v in loader.items() if k in LOADER | BOTH})


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
  sections.check(c)
  _check_numbers(c)
  _check_data(c)
  sections.check(c, "preprocess")
  strings.check(c)
  sections.check(c, "mesh")
  _check_sharding(c["sharding"])
  sections.check(c, "optim")
  for key in ("schedule", "lr_mults", "wd_mults"):
    _check_rules(f"config.optim.{key}", c["optim"].get(key, ()))
  _check_loss(c)
  _check_process(c)
  for name in c["evals"]:
    _check_eval(c, name)
  _check_names(c["evals"])
  _check_kept(c)
  if "init" in c:
    init.check(c["init"])
  params = _check_model(c)
  learns = losses.LOSSES[c["loss"]["name"]].learns
  if missing := [s for s in learns if s not in params]:
    raise UserError(
        f"The loss {c['loss']['name']} learns {missing}, which the model does"
        " not have: set config.model.bias_init."
    )
  _check_embedded(c)
  _check_rules_fit(c, params)


# The dtypes that training computes in.
_DTYPES = ("float32", "bfloat16")
# The largest temperature and bias to start with: float32 keeps three decimals
# of a logit of this size. The released models end near 100 and -20.
_MAX_LOGIT = 1e4
# Steps and examples are counted in int32 on the device.
_MAX_INT = 2**31 - 1


def _check_numbers(c: Mapping[str, Any]) -> None:
  for key in "total_steps batch_size image_size text_len log_steps".split():
    _at_least(1, f"config.{key}", c[key])
  for key in ("seed", "microbatch"):
    _at_least(0, f"config.{key}", c[key])
  size, part = c["batch_size"], c["microbatch"]
  if part and size % part:
    raise UserError(
        "config.microbatch must be 0 (off) or divide config.batch_size ="
        f" {size}; got {part}: the nearest batches that it divides are"
        f" {sharding.nearest_multiples(size, part)}."
    )


def _at_least(low: int, name: str, value: int) -> None:
  if value < low:
    kind = "a positive integer" if low else "a whole number from 0 up"
    raise UserError(f"{name} must be {kind}; got {value}.")
  if value > _MAX_INT:
    raise UserError(f"{name} must be at most {_MAX_INT}; got {value}.")


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
  if value not in known:
    raise UserError(
        f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}."
    )


def _check_data(c: Mapping[str, Any]) -> None:
  sections.check(c, "data")
  data = c["data"]
  for key in data.keys() & LOADER.keys():
    _at_least(0, f"config.data.{key}", data[key])
  for number, part in enumerate(data.get("mix") or ()):
    name = f"config.data.mix[{number}]"
    if not isinstance(part, Mapping):
      raise UserError(f"{name} must be a dict of a source; got {part!r}.")
    schema.check_keys(name, part, *sections.keys(c, "data", "mix"))
  if not 0 <= data["max_replaced_share"] <= 1:
    raise UserError(
        "config.data.max_replaced_share must be in [0, 1]; got"
        f" {data['max_replaced_share']}."
    )


def _check_process(c: Mapping[str, Any]) -> None:
  sections.check(c, "watchdog")
  for key, value in c["watchdog"].items():
    if value <= 0:
      raise UserError(
          f"config.watchdog.{key} must be a positive number of seconds; got"
          f" {value}."
      )
  sections.check(c, "profile")
  for step in c["profile"].get("steps", ()):
    if not isinstance(step, int) or step < 1:
      raise UserError(
          "config.profile.steps must be steps to trace, whole numbers from 1"
          f" up; got {step!r}."
      )
  if "wandb" in c:
    sections.check(c, "wandb")
    _one_of("config.wandb.mode", c["wandb"]["mode"], ("online", "offline"))
    if not c["wandb"]["project"]:
      raise UserError("config.wandb.project must name a project; got ''.")


def _check_kept(c: Mapping[str, Any]) -> None:
  """Checks which checkpoints are kept, and what ends the run early."""
  sections.check(c, "ckpt")
  ckpt = c["ckpt"]
  for key, low in (("save_steps", 1), ("keep", 1), ("keep_every", 0)):
    _at_least(low, f"config.ckpt.{key}", ckpt[key])
  _one_of("config.ckpt.best_mode", ckpt["best_mode"], ("", "min", "max"))
  if ckpt["best"]:
    _check_metric("config.ckpt.best", ckpt["best"], c["evals"])
  elif ckpt["best_mode"]:
    raise UserError(
        "config.ckpt.best_mode needs config.ckpt.best, the metric; got"
        f" {ckpt['best_mode']!r} alone."
    )
  if "early_stopping" in c:
    sections.check(c, "early_stopping")
    stopping = c["early_stopping"]
    name = "config.early_stopping"
    _check_metric(f"{name}.metric", stopping["metric"], c["evals"])
    _at_least(1, f"{name}.patience", stopping["patience"])
    _one_of(f"{name}.mode", stopping["mode"], ("", "min", "max"))
    if stopping["min_delta"] < 0:
      raise UserError(
          f"{name}.min_delta must be at least 0; got {stopping['min_delta']}."
      )


def _check_metric(name: str, metric: str, evals: Mapping[str, Any]) -> None:
  """Checks that a metric is one of those that the run writes."""
  known = [
      f"{section['type']}/{section['dataset']}{score}"
      for section in evals.values()
      for score in SCORES[section["type"]]
  ]
  if metric not in (known := ["train/loss", *known]):
    raise UserError(
        f"{name} must be train/loss or a score of config.evals; got {metric!r}:"
        f" {schema.suggest(metric, known)}"
    )


def _check_rules(name: str, rules: Sequence) -> None:
  for rule in rules:
    pair = isinstance(rule, list | tuple) and len(rule) == 2
    if not pair or not isinstance(rule[0], str):
      raise UserError(
          f"{name} must be a list of pairs (regular expression over parameter"
          f" names, value); got {rule!r}."
      )


def _check_sharding(rules: Sequence) -> None:
  _check_rules("config.sharding", rules)
  for regex, value in rules:
    axes = [value] if isinstance(value, str) else value
    if not isinstance(axes, list | tuple) or not all(
        axis is None or isinstance(axis, str) for axis in axes
    ):
      raise UserError(
          f"config.sharding of {regex!r} must be 'replicate', 'fsdp', or a list"
          f" of a mesh axis or None for each array axis; got {value!r}."
      )


def _check_loss(c: Mapping[str, Any]) -> None:
  name = c["loss"].get("name")
  if not isinstance(name, str) or name not in losses.LOSSES:
    raise UserError(
        "config.loss.name must be one of"
        f" {', '.join(losses.LOSSES)}; got {name!r}."
    )
  sections.check(c, "loss")
  block = c["loss"].get("block")
  if block is not None:
    _at_least(1, "config.loss.block", block)


def _check_eval(c: Mapping[str, Any], key: str) -> None:
  name, section = f"config.evals.{key}", c["evals"][key]
  kind = section.get("type") if isinstance(section, Mapping) else section
  if not isinstance(kind, str) or kind not in EVALUATORS:
    raise UserError(
        f"{name}.type must be one of {', '.join(sorted(EVALUATORS))}; got"
        f" {kind!r}."
    )
  sections.check(c, "evals", key)
  _at_least(1, f"{name}.every_steps", section["every_steps"])
  for key in section.keys() & {"gallery", "batch_size"}:
    _at_least(0, f"{name}.{key}", section[key])


def _check_names(evals: Mapping[str, Any]) -> None:
  """Checks that no two evaluations write the same metrics."""
  first: dict[str, str] = {}
  for name, section in evals.items():
    start = f"{section['type']}/{section['dataset']}"
    if start in first:
      raise UserError(
          f"config.evals.{first[start]} and config.evals.{name} write the same"
          f" metrics, {start}: give each a `dataset` of its own."
      )
    first[start] = name


def _check_model(c: Mapping[str, Any]) -> dict:
  """Returns all parameter shapes; making them runs the model's own checks."""
  model, side = c["model"], c["image_size"]
  sections.check(c, "model")
  for tower in ("image", "text"):
    sections.check(c, "model", tower)
    for key in ("patch", "num_heads", "width", "mlp_dim", "vocab_size"):
      _at_least(1, f"config.model.{tower}.{key}", model[tower].get(key, 1))
    _at_least(0, f"config.model.{tower}.depth", model[tower].get("depth", 1))
  _check_arithmetic(c)
  # Build the image tower even if it is unused, because stored embeddings are
  # checked against it.
  towers = TwoTowers(**model | {"embedded": False})
  try:
    return towers.shapes((side, side, 3), c["text_len"])
  except UserError:
    raise
  # A bad value can raise any of these inside Flax.
  except (
      TypeError,
      ValueError,
      LookupError,
      AttributeError,
      ArithmeticError,
  ) as e:
    raise UserError(
        f"config.model cannot be built: {str(e).splitlines()[0]}."
    ) from None


def _check_arithmetic(c: Mapping[str, Any]) -> None:
  """Checks dtypes, and the numbers that the logits begin with."""
  defaults = schema.defaults(TwoTowers)
  model = defaults | c["model"]
  for name, section in (
      ("config.model", model),
      ("config.model.image", model["image"]),
      ("config.model.text", model["text"]),
  ):
    dtype = section.get("dtype", "float32")
    if dtype not in _DTYPES:
      why = (
          ": gradients underflow in float16, which has no loss scaling here"
          if dtype == "float16"
          else ""
      )
      raise UserError(
          f"{name}.dtype must be one of {', '.join(_DTYPES)} in training; got"
          f" {dtype!r}{why}."
      )
  start, bias = model["temperature_init"], model["bias_init"]
  if not 1 / _MAX_LOGIT <= start <= _MAX_LOGIT:
    raise UserError(
        "config.model.temperature_init must be a positive factor on cosines,"
        f" from {1 / _MAX_LOGIT:g} to {_MAX_LOGIT:g}, such as 10; got {start}."
    )
  if bias is not None and abs(bias) > _MAX_LOGIT:
    raise UserError(
        "config.model.bias_init must be None or from"
        f" {-_MAX_LOGIT:g} to {_MAX_LOGIT:g}, such as -10; got {bias}."
    )
  limit = c["optim"].get("max_temperature")
  if limit is not None and limit < start:
    raise UserError(
        "config.optim.max_temperature must be at least"
        f" config.model.temperature_init = {start}; got {limit}."
    )


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
