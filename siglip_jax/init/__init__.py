"""The initial state of a run, with the weights that `config.init` names."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from absl import logging
import jax

from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.config import schema
from siglip_jax.data.preprocess import meaning
from siglip_jax.errors import UserError
from siglip_jax.init import fit as fit_lib
from siglip_jax.init import table
from siglip_jax.run import Run
from siglip_jax.step import TrainState

PARTS = ("img", "txt", "t", "b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """The section of config.init for one of `PARTS`.

  Attributes:
    path: path of a workdir, an .npz or a transformers folder; local or remote.
    dont_load: regexes of parameters that keep their initial values; each must
      match a whole name within the part, such as "head/.*".
    step: step of the checkpoint, if the path is of a workdir; by default the
      newest that can be read.
  """

  path: str
  dont_load: Sequence[str] = ()
  step: int | None = None


def check(section: Mapping) -> None:
  """Checks the form of config.init, without reading any weights."""
  schema.check_keys(
      "config.init", section, dict.fromkeys(PARTS, Mapping), required=()
  )
  for part, options in section.items():
    schema.check(f"config.init.{part}", options, Part)
    for regex in options.get("dont_load", ()):
      if not isinstance(regex, str):
        raise UserError(
            f"config.init.{part}.dont_load must be regular expressions; got"
            f" {regex!r}."
        )


def begin(run: Run, spec: Mapping) -> TrainState:
  """Returns the state at step 0, and prints which weights were loaded into it.

  Args:
    run: run that starts; its config may have no `init`.
    spec: the run's input preprocessing: "image", "text" and "tokenizer_digest".

  Raises:
    UserError: see `read`.
  """
  section = run.config.init.to_dict() if "init" in run.config else {}
  _warn_of_locked_noise(section, run)
  if not section:
    return run.init()
  shapes = run.state_shapes.params
  sources = weights(section)
  fitted, notes = read(section, shapes, spec, sources)
  if jax.process_index() == 0:
    paths = {part: source.origin for part, source in sources.items()}
    table.show(paths, shapes, fitted, notes)
  state = run.init()
  return dataclasses.replace(state, params=put(state.params, fitted))


def weights(section: Mapping) -> dict[str, weights_lib.Weights]:
  """Reads the weights that config.init names; returns them by part.

  Parts of the same path and step share them.

  Raises:
    UserError: weights cannot be read.
  """
  parts = {name: Part(**options) for name, options in section.items()}
  sources = {
      (path, step): weights_lib.read(path, step=step)
      for path, step in dict.fromkeys((p.path, p.step) for p in parts.values())
  }
  return {name: sources[p.path, p.step] for name, p in parts.items()}


def read(
    section: Mapping,
    shapes: Mapping,
    spec: Mapping,
    sources: Mapping[str, weights_lib.Weights] | None = None,
) -> tuple[dict[str, fit_lib.Fitted], list[str]]:
  """Reads weights and fits them to the model; leaves none on a device.

  Args:
    section: config.init.
    shapes: shapes of the run's parameters, as a nested dict.
    spec: see `begin`.
    sources: the section's `weights`; read here by default.

  Returns:
    Part -> its arrays, and notes on inputs that were prepared differently.

  Raises:
    UserError: weights cannot be read or do not fit.
  """
  sources = weights(section) if sources is None else sources
  fitted, notes = {}, []
  for name, options in section.items():
    part, source = Part(**options), sources[name]
    _check_has(name, source.params, part.path)
    _check_has(name, shapes, "the model")
    fitted[name] = fit_lib.fit(
        _nested(name, source.params),
        _nested(name, shapes),
        part.dont_load,
        source=part.path,
        part=name,
    )
    if name == "txt" and "Embed_0/embedding" in fitted[name].arrays:
      _check_tokenizer(source, spec, part.path)
      notes += _note_on_tokenizer(source, spec, part.path)
    notes += _notes(name, source, spec, part.path)
  return fitted, notes


def put(params: Mapping, fitted: Mapping[str, fit_lib.Fitted]) -> dict:
  """Returns the parameters with the fitted arrays in place of the initial ones.

  A fitted array takes the sharding of the array it replaces. That one is freed
  first, so that a large tower is never in memory twice. Each process transfers
  only its own devices' shards.
  """
  flat = tree.flatten(params)
  for part, part_fit in fitted.items():
    for name, array in part_fit.arrays.items():
      key = name if name == part else f"{part}/{name}"
      sharding = flat[key].sharding
      flat[key].delete()
      flat[key] = jax.make_array_from_callback(
          array.shape, sharding, lambda index, x=array: x[index]
      )
  return tree.unflatten(flat)


def _nested(part: str, params: Mapping) -> Mapping:
  """Returns a part as a dict, even if it is a single array."""
  value = params[part]
  return value if isinstance(value, Mapping) else {part: value}


def _check_has(part: str, params: Mapping, what: str) -> None:
  if part not in params:
    raise UserError(
        f"config.init.{part}: {what} has no {part!r}; it has"
        f" {', '.join(sorted(params))}."
    )


def _notes(part: str, weights: weights_lib.Weights, spec: Mapping, path: str):
  """Returns a note if the weights were trained with other preprocessing."""
  kind = {"img": "image", "txt": "text"}.get(part)
  trained = kind and getattr(weights, kind)
  if not kind or trained is None:
    return []
  if meaning(trained) == meaning(spec[kind]):
    return []
  return [
      f"{part}: {path} was trained with {kind} preprocessing {trained}; this"
      f" config uses {spec[kind]}"
  ]


def _warn_of_locked_noise(section: Mapping, run: Run) -> None:
  for part in ("img", "txt"):
    names = [
        n for n in tree.flatten(run.state_shapes.params) if n.startswith(part)
    ]
    if names and part not in section and run.optimizer.frozen.issuperset(names):
      logging.warning(
          "config.optim.schedule locks all of %s at random values: give"
          " config.init.%s a path.",
          part,
          part,
      )


def _check_tokenizer(weights: weights_lib.Weights, spec: Mapping, path: str):
  """Refuses another tokenizer: its ids would select wrong embedding rows."""
  theirs, ours = weights.tokenizer_digest, spec["tokenizer_digest"]
  if theirs is not None and theirs != ours:
    raise UserError(
        f"config.init.txt: {path} was trained with another tokenizer (sha256"
        f" {theirs[:12]}..., here {ours[:12]}...). Use its tokenizer, or"
        ' leave out the token embedding: dont_load=["Embed_0/.*"].'
    )


def _note_on_tokenizer(
    weights: weights_lib.Weights, spec: Mapping, path: str
) -> list[str]:
  """Returns a note if the tokenizer is not the released model's.

  The weights' shapes tell which released model they are, if any.
  """
  variant, ours = weights.variant, spec["tokenizer_digest"]
  if variant is None or variant.tokenizer_sha256 in (None, ours):
    return []
  return [
      f"txt: {path} has the sizes of {variant.name}, whose tokenizer"
      f" {variant.tokenizer} has sha256 {variant.tokenizer_sha256[:12]}...;"
      f" this config's has {ours[:12]}..."
  ]
