"""The start of a run, from a checkpoint or from initial values.

Nothing on disk changes before the start is known to succeed.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import datetime
import importlib.metadata
import platform
from typing import Any

import jax

from siglip_jax import checkpoint
from siglip_jax import init
from siglip_jax import metrics as metrics_lib
from siglip_jax import workdir as workdir_lib
from siglip_jax.config import check as config_check
from siglip_jax.config.changes import Change
from siglip_jax.config.changes import changes
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import meaning
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.step import TrainState

# Of the spec, what the weights do not depend on -> its name in messages.
_DATA = {
    "data_digest": "data (digest of keys and texts)",
    "lanes": "data.order (lanes)",
}
_SHOWN = 3  # arrays that do not fit, in a message
# Fields that can change the shapes of a state start with these.
_SHAPING = ("model.", "optim.", "image_size", "text_len", "preprocess.")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """The start of a run.

  Attributes:
    state: the train state.
    step: number of updates that it has made.
    examples: position in the stream of training examples.
    resumed: whether the state is from a checkpoint.
    changed: fields of the config that differ from those of the last start.
  """

  state: TrainState
  step: int
  examples: int
  resumed: bool
  changed: Sequence[Change] = ()

  def examples_at(self, step: int, batch_size: int) -> int:
    """Returns the position in the stream of examples after `step` updates."""
    return self.examples + (step - self.step) * batch_size


def restore_or_init(p: Prepared, checkpoints: checkpoint.Checkpoints) -> Start:
  """Returns the newest checkpoint, or the initial state if there is none.

  Raises:
    UserError: the run cannot go on with this config; the message names the
      fields that changed.
  """
  before = previous_config(p)
  changed = changes(before, p.config.to_dict()) if before else []
  refuse_misfits(checkpoints.misfits(p.run.state_shapes), changed)
  p.run.trace()
  saved = checkpoints.restore(p.run.state_shapes)
  if saved is None:
    state = init.begin(p.run, p.spec)
    return Start(state=state, step=0, examples=0, resumed=False)
  check_spec(saved.spec, p.spec, before)
  step = int(saved.state.step)
  if step > p.config.total_steps:
    raise UserError(
        f"The run has made {step} steps, and config.total_steps ="
        f" {p.config.total_steps} is fewer: raise it, or use a new workdir."
    )
  examples = saved.examples
  if examples is None:  # a checkpoint of an earlier version
    examples = _examples(p, step, before)
  return Start(
      state=saved.state,
      step=step,
      examples=examples,
      resumed=True,
      changed=[*changed, *_other_data(saved.spec, p.spec)],
  )


def _other_data(saved: Mapping[str, Any], spec: Mapping[str, Any]):
  """Returns the changes of the data and of the lanes that they are read in.

  The order of the examples is another one from here on.
  """
  pairs = {name: (saved.get(key), spec[key]) for key, name in _DATA.items()}
  return [
      Change(name, str(before), str(after))
      for name, (before, after) in pairs.items()
      if before not in (None, after)  # an early checkpoint has none
  ]


def _examples(p: Prepared, step: int, before: Mapping[str, Any]) -> int:
  """Returns the position in the data of a checkpoint that has none.

  An earlier version counted positions in batches. A start that was killed
  before its first checkpoint has noted the position, but changed the config.
  """
  for start in reversed(workdir_lib.read_starts(p.workdir)):
    if start.get("step") == step and "examples" in start:
      return start["examples"]
  return step * (before["batch_size"] if before else p.config.batch_size)


def previous_config(p: Prepared) -> dict[str, Any]:
  """Returns the config of the run's last start; empty if there is none."""
  try:
    config = workdir_lib.read_config(p.workdir)
  except UserError:  # a first start, or a file that is damaged
    return {}
  # An earlier version may have had fewer settings, at the same defaults.
  config_check.fill(config)
  return config.to_dict()


def check_spec(
    saved: Mapping[str, Any],
    spec: Mapping[str, Any],
    before: Mapping[str, Any],
) -> None:
  """Compares what a checkpoint's weights depend on with what a config says.

  Args:
    saved: the spec in the checkpoint.
    spec: the spec of this config.
    before: config of the run's last start, for the model of a checkpoint whose
      spec has none; empty if there is none.

  Raises:
    UserError: they differ; the message names the first difference.
  """
  for key, value in spec.items():
    if key in _DATA:
      continue  # a run may go on with other data, of which it tells
    if key == "model":
      _check_model(saved.get("model") or before.get("model"), value)
      continue
    same = saved.get(key) == value
    if key in ("image", "text"):
      same = meaning(saved[key]) == meaning(value)
    if not same:
      raise UserError(_trained_with(key, saved.get(key), value))


def _check_model(saved: Mapping[str, Any] | None, here: Mapping) -> None:
  """Compares two model sections by what they compute, not how."""
  if saved is None:  # an early checkpoint without a config
    return
  old, new = (TwoTowers(**model).arithmetic for model in (saved, here))
  for change in changes(old, new):
    raise UserError(
        _trained_with(f"model.{change.field}", change.before, change.after)
    )


def _trained_with(key: str, saved: Any, here: Any) -> str:
  if not key.startswith("model."):  # else they are written as literals
    saved, here = repr(saved), repr(here)
  return (
      f"The checkpoint was trained with {key} = {saved}, this config has"
      f" {here}. Restore the former, or use a new workdir."
  )


def refuse_misfits(misfits: Sequence[str], changed: Sequence[Change]) -> None:
  """Raises UserError if arrays of a checkpoint do not fit the config's state.

  Args:
    misfits: these arrays, from `Checkpoints.misfits`.
    changed: fields of the config that differ from those of the last start.
  """
  if not misfits:
    return
  shaping = [c for c in changed if c.field.startswith(_SHAPING)] or changed
  more = f" and {len(misfits) - _SHOWN} more" if misfits[_SHOWN:] else ""
  what = (
      "Changed since the run's last start: "
      + "; ".join(map(str, shaping))
      + ". Change back what sets these shapes"
      if shaping
      else "No field of the config changed since; perhaps the code did. Use"
      " what the run was made with"
  )
  raise UserError(
      "The checkpoint has other arrays than the state of this config:"
      f" {', '.join(misfits[:_SHOWN])}{more}. {what}, or use a new workdir."
  )


def record_start(
    p: Prepared, start: Start, checkpoints: checkpoint.Checkpoints
) -> None:
  """Writes the config and tokenizer to the workdir, and rewinds its metrics.

  A run on embeddings also keeps the tower that made them. Each start is noted
  with its code, versions, devices and changed fields, which are also printed.
  """
  if p.main:
    if isinstance(p.source, Embeddings):
      workdir_lib.keep_tower(p.source, p.workdir)
    workdir_lib.keep_tokenizer(p.pp.tokenizer, p.workdir)
    number = workdir_lib.write_config(p.config, p.workdir)
    metrics_lib.rewind(p.workdir, start.step)
    workdir_lib.note_start(p.workdir, _note(p, start, number))
    for change in start.changed:
      print(f"resumed with {change}")
    if any(change.field == "batch_size" for change in start.changed):
      print(
          f"resumed at example {start.examples:,} of the data, which is where"
          " the run was; steps now count other batches"
      )
  checkpoints.set_aside()


def _note(p: Prepared, start: Start, number: int) -> dict[str, Any]:
  """Returns what is kept of a start."""
  now = datetime.datetime.now(datetime.UTC)
  facts = p.facts[0]
  return {
      "time": now.isoformat(timespec="seconds"),
      "step": start.step,
      "examples": start.examples,
      "config": number,
      "changed": [str(change) for change in start.changed],
      "code": facts["code"],
      "versions": {"python": platform.python_version()}
      | {name: importlib.metadata.version(name) for name in _PACKAGES},
      "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
      "hosts": [f["host"] for f in p.facts],
      "evals": p.eval_digests,
      "tried": p.tried,
  }
