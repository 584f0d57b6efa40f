"""Checkpoints: state, data position and what the weights were trained on.

Orbax writes each step into a temporary folder and renames it when whole, in
the background. A step that cannot be read is passed over for an older one.
"""

from collections.abc import Mapping
from pathlib import Path

from absl import logging
import jax
import orbax.checkpoint as ocp

from siglip_jax.errors import UserError
from siglip_jax.step import TrainState


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(self, workdir: str | Path, *, keep: int = 2):
    self._folder = Path(workdir).absolute() / "checkpoints"
    self._manager = ocp.CheckpointManager(
        self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def steps(self) -> list[int]:
    """Steps saved, newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def save(self, step: int, state: TrainState, spec: Mapping) -> None:
    """Saves in the background; returns when the state may change again."""
    if step in self._manager.all_steps():
      return
    rest = {
        "step": state.step,
        "replaced": state.replaced,
        "opt_state": state.opt_state,
    }
    self._manager.save(
        step,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(rest),
            spec=ocp.args.JsonSave(dict(spec)),
        ),
        force=True,
    )

  def restore(self, shapes: TrainState) -> tuple[TrainState, dict] | None:
    """The newest whole checkpoint, or None where there is none.

    Args:
      shapes: the state as ShapeDtypeStructs with shardings.

    Returns:
      The state, and the spec saved with it.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    rest = {
        "step": shapes.step,
        "replaced": shapes.replaced,
        "opt_state": shapes.opt_state,
    }
    args = ocp.args.Composite(
        params=ocp.args.StandardRestore(shapes.params),
        rest=ocp.args.StandardRestore(rest),
        spec=ocp.args.JsonRestore(),
    )
    found = self._newest(args)
    if found is None:
      return None
    state = TrainState(params=found["params"], **found["rest"])
    return state, found["spec"]

  def restore_params(self, shapes: Mapping) -> tuple[dict, dict, int]:
    """Parameters, spec and step of the newest whole checkpoint."""
    found = self._newest(
        ocp.args.Composite(
            params=ocp.args.StandardRestore(shapes),
            spec=ocp.args.JsonRestore(),
        )
    )
    if found is None:
      raise UserError(f"There is no checkpoint in {self._folder}: train first.")
    return found["params"], found["spec"], found.step

  def wait(self) -> None:
    """Returns when all is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and releases the threads."""
    self.wait()
    self._manager.close()

  def _newest(self, args: ocp.args.Composite):
    reasons = {}
    for step in self.steps():
      try:
        found = dict(self._manager.restore(step, args=args).items())
      # Orbax raises whatever its parts do: OSError, KeyError, ValueError, ...
      except Exception as e:  # pylint: disable=broad-except
        reasons[step] = f"{type(e).__name__}: {_first_line(e)}"
        logging.warning("Checkpoint %d is unreadable: %s", step, reasons[step])
        continue
      self._set_aside(reasons)
      return _Found(found, step)
    if reasons:
      listed = "; ".join(f"step {s}: {r}" for s, r in reasons.items())
      raise UserError(
          f"No checkpoint in {self._folder} can be read by this config"
          f" ({listed}). If the config changed, use another workdir; if the"
          " files are damaged, move the folder away to start anew."
      )
    return None

  def _set_aside(self, damaged: Mapping[int, str]) -> None:
    """Renames damaged steps, so that they can be saved again."""
    for step in damaged:
      if jax.process_index() == 0:
        target = self._folder.with_name(f"damaged_{step}")
        (self._folder / str(step)).rename(target)
        logging.warning("Moved the damaged checkpoint to %s", target)
    if damaged:
      self._manager.reload()


class _Found(dict):
  """Items of a checkpoint and its step."""

  def __init__(self, items: Mapping, step: int):
    super().__init__(items)
    self.step = step


def _first_line(e: Exception) -> str:
  return (str(e).strip().splitlines() or [""])[0][:200]
