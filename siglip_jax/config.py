"""Reading, checking and writing configs, before any device is touched."""

import ast
from collections.abc import Mapping
from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import ml_collections

from siglip_jax import losses
from siglip_jax import optim
from siglip_jax import preprocessing
from siglip_jax import profiling
from siglip_jax import sections
from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax import watchdog
from siglip_jax.data import sources
from siglip_jax.errors import UserError
from siglip_jax.evals import EVALUATORS
from siglip_jax.init import initial
from siglip_jax.models.text import TextTransformer
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.models.vit import VIT


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
          f"Unknown config argument {key!r}; {sections.suggest(key, defaults)}"
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
  """All checks that need neither data nor a device.

  Raises:
    UserError: the first thing found wrong, and how to mend it.
  """
  c = config.to_dict()
  sections.check_keys("config", c, _TOP_LEVEL | _OPTIONAL, _TOP_LEVEL)
  for key in "total_steps batch_size image_size text_len log_steps".split():
    _at_least(1, f"config.{key}", c[key])
  _at_least(0, "config.seed", c["seed"])
  _at_least(0, "config.microbatch", c["microbatch"])
  size, part = c["batch_size"], c["microbatch"]
  if part and size % part:
    raise UserError(
        "config.microbatch must be 0 (off) or divide config.batch_size ="
        f" {size}; got {part}: the nearest batches that it divides are"
        f" {size // part * part} and {-(-size // part) * part}."
    )
  _check_data(c["data"])
  sections.check_keys(
      "config.preprocess",
      c["preprocess"],
      _PREPROCESS | {"variant": str},
      required=_PREPROCESS,
  )
  preprocessing.check(c)
  sections.check("config.mesh", c["mesh"], sharding.make_mesh)
  _check_rules("config.sharding", c["sharding"])
  sections.check("config.optim", c["optim"], optim.make)
  for key in ("schedule", "lr_mults", "wd_mults"):
    _check_rules(f"config.optim.{key}", c["optim"].get(key, ()))
  _check_loss(c["loss"])
  sections.check_keys("config.ckpt", c["ckpt"], _CKPT)
  for key in _CKPT:
    _at_least(1, f"config.ckpt.{key}", c["ckpt"][key])
  _check_process(c)
  for name, section in c["evals"].items():
    _check_eval(f"config.evals.{name}", section)
  if "init" in c:
    initial.check(c["init"])
  params = _check_model(c)
  _check_embedded(c)
  _check_rules_fit(c, params)


_NUMBERS = (
    "seed total_steps batch_size microbatch image_size text_len log_steps"
).split()
_SECTIONS = "data preprocess model loss optim mesh evals ckpt".split()
_TOP_LEVEL = (
    dict.fromkeys(_NUMBERS, int)
    | dict.fromkeys(_SECTIONS, Mapping)
    | {"sharding": Sequence}
)
_OPTIONAL = {"init": Mapping, "watchdog": Mapping, "profile": Mapping}
_DATA = {"pp": str, "max_replaced_share": float}
_LOADER = {"num_threads": int, "num_workers": int, "cache_mb": int}
_PREPROCESS = {"image": str, "text": str}
_CKPT = {"save_steps": int, "keep": int}


def loader_options(config: ml_collections.ConfigDict) -> dict:
  """The part of config.data that goes to the pipeline."""
  return {k: config.data[k] for k in _LOADER if k in config.data}


def process_options(config: ml_collections.ConfigDict, name: str) -> dict:
  """A section that a config may leave out: `watchdog` or `profile`."""
  return config[name].to_dict() if name in config else {}


def train_source(config: ml_collections.ConfigDict) -> sources.Source:
  """The source of config.data."""
  return sources.make(**{k: config.data[k] for k in source_keys(config)})


def source_keys(config: ml_collections.ConfigDict) -> list[str]:
  """The keys of config.data that say which data, for `sources.make`."""
  return [k for k in config.data if k not in _DATA | _LOADER]


def _at_least(low: int, name: str, value: int) -> None:
  if value < low:
    kind = "a positive integer" if low else "a whole number from 0 up"
    raise UserError(f"{name} must be {kind}; got {value}.")


def _check_data(data: Mapping[str, Any]) -> None:
  own = {k: v for k, v in data.items() if k in _DATA | _LOADER}
  rest = {k: v for k, v in data.items() if k not in own}
  sections.check("config.data", rest, sources.make)
  sections.check_keys("config.data", own, _DATA | _LOADER, required=_DATA)
  for key in own.keys() & _LOADER.keys():
    _at_least(0, f"config.data.{key}", own[key])
  if not 0 <= own["max_replaced_share"] <= 1:
    raise UserError(
        "config.data.max_replaced_share must be in [0, 1]; got"
        f" {own['max_replaced_share']}."
    )


def _check_process(c: Mapping[str, Any]) -> None:
  if "watchdog" in c:
    sections.check("config.watchdog", c["watchdog"], watchdog.Limits)
    for key, value in c["watchdog"].items():
      if value <= 0:
        raise UserError(
            f"config.watchdog.{key} must be a positive number of seconds; got"
            f" {value}."
        )
  if "profile" in c:
    sections.check(
        "config.profile",
        c["profile"],
        profiling.Profiler,
        passed=("workdir",),
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
  known = {
      n.removesuffix("_loss"): getattr(losses, n)
      for n in losses.__all__
      if n.endswith("_loss")
  }
  name = section.get("name")
  if name not in known:
    raise UserError(
        f"config.loss.name must be one of {', '.join(known)}; got {name!r}."
    )
  sections.check(
      "config.loss", section, losses.make, known[name], passed=("mesh", "axis")
  )


def _check_eval(name: str, section: Mapping[str, Any]) -> None:
  kind = section.get("type")
  if kind not in EVALUATORS:
    raise UserError(
        f"{name}.type must be one of {', '.join(sorted(EVALUATORS))}; got"
        f" {kind!r}."
    )
  own = {k: v for k, v in section.items() if k in ("type", "every_steps")}
  sections.check_keys(name, own, {"type": str, "every_steps": int})
  _at_least(1, f"{name}.every_steps", section["every_steps"])
  rest = {k: v for k, v in section.items() if k not in own}
  sections.check(name, rest, EVALUATORS[kind], sources.make)


def _check_model(c: Mapping[str, Any]) -> dict:
  """The shapes of all parameters, which takes all of the model's own checks."""
  model, side = c["model"], c["image_size"]
  sections.check("config.model", model, TwoTowers)
  for tower, module in (("image", VIT), ("text", TextTransformer)):
    sections.check(
        f"config.model.{tower}",
        {k: v for k, v in model[tower].items() if k != "variant"},
        module,
        passed=("parent", "name"),
        complete="variant" not in model[tower],
    )
    for key in ("patch", "num_heads", "width", "mlp_dim", "vocab_size"):
      _at_least(1, f"config.model.{tower}.{key}", model[tower].get(key, 1))
    _at_least(0, f"config.model.{tower}.depth", model[tower].get("depth", 1))
  # With an image tower in any case: it is what embeddings must come from.
  towers = TwoTowers(**model | {"embedded": False})
  try:
    return towers.shapes((side, side, 3), c["text_len"])
  except UserError:
    raise
  # Whatever a wrong value meets first, deep inside.
  except (TypeError, ValueError, LookupError, AttributeError) as e:
    raise UserError(
        f"config.model cannot be built: {str(e).splitlines()[0]}."
    ) from None


def _check_rules_fit(c: Mapping[str, Any], params: Mapping) -> None:
  """Each rule decides a parameter, and each parameter meets a rule."""
  if TwoTowers(**c["model"]).embedded:  # then there is no image tower
    params = {part: p for part, p in params.items() if part != "img"}
  tree.assign(c["sharding"], tree.flatten(params), what="config.sharding")
  # In epochs of one example, for the data are not known: no duration is longer.
  optim.make(params, c["total_steps"], c["batch_size"], 1, **c["optim"])


def _check_embedded(c: Mapping[str, Any]) -> None:
  """Without an image tower, pictures are embeddings everywhere, and only so."""
  embedded = TwoTowers(**c["model"]).embedded
  given = {"config.data": c["data"]}
  given |= {f"config.evals.{name}": s for name, s in c["evals"].items()}
  for name, section in given.items():
    if bool(section.get("embeddings")) != embedded:
      raise UserError(
          f"{name} must name a folder of `embeddings` (which"
          " siglip_jax.embed writes) if config.model.embedded is True, as there"
          f" is no image tower then, and only if; got {embedded} and"
          f" embeddings={section.get('embeddings')!r}."
      )


def write(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Writes config.json, the config as resolved, in one move."""
  part = workdir / "config.part"
  part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  part.replace(workdir / "config.json")


def read(workdir: Path) -> ml_collections.ConfigDict:
  """Reads config.json back."""
  path = workdir / "config.json"
  if not path.is_file():
    raise UserError(
        f"{workdir} holds no config.json: expected the --workdir of a run."
    )
  try:
    config = json.loads(path.read_bytes())
  except ValueError as e:
    raise UserError(
        f"{path} is damaged: {e}. The command that trained the run writes it"
        " again."
    ) from None
  if not isinstance(config, dict) or not _TOP_LEVEL.keys() <= config.keys():
    raise UserError(
        f"{path} is not the config of a run of this project: expected the"
        f" keys {', '.join(_TOP_LEVEL)}."
    )
  return ml_collections.ConfigDict(config)
