"""Checkpoints: state, data position and what the weights were trained on.

Orbax writes each step into a temporary folder and renames it when whole, in
the background. Checksums tell whether what is read is what was written. A step
that cannot be read, or is not the same, is passed over for an older one.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
from pathlib import Path
from typing import Any

from absl import logging
import orbax.checkpoint as ocp

from siglip_jax.errors import NO_ROOM
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.step import TrainState
from siglip_jax.weights import checksums
from siglip_jax.weights.workdirs import first_line
from siglip_jax.weights.workdirs import verify

_AGREE_SECONDS = 300.0
_FULL = [os.strerror(number) for number in NO_ROOM]  # as TensorStore says it


class Checkpoints:
  """The checkpoints of one workdir.

  Args:
    workdir: of the run.
    keep: how many.
    clean: delete what killed runs left half written; for the run that saves,
      as another's unfinished work looks the same.
    peers: all processes; by default those of JAX.

  Attributes:
    workdir: of the run.
  """

  def __init__(
      self,
      workdir: str | Path,
      *,
      keep: int = 2,
      clean: bool = False,
      peers: Peers | None = None,
  ):
    self.workdir = Path(workdir)
    self._folder = Path(workdir).absolute() / "checkpoints"
    self._peers = peers or Peers()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=clean
    )
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def steps(self) -> list[int]:
    """Steps saved, newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def save(
      self, step: int, state: TrainState, spec: Mapping, evaluated: bool = True
  ) -> None:
    """Saves in the background; returns when the state may change again.

    Args:
      step: number of updates.
      state: after them.
      spec: what the weights depend on.
      evaluated: whether the evaluations due at this step are done.

    Raises:
      UserError: the disk is full, perhaps since the save before.
    """
    if step in self._manager.all_steps():
      return
    rest = _rest(state)
    about = {
        "params": checksums.of_arrays(state.params),
        "rest": checksums.of_arrays(rest),
        "spec": checksums.of_json(spec),
        "evaluated": evaluated,
    }
    args = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(rest),
        spec=ocp.args.JsonSave(dict(spec)),
        about=ocp.args.JsonSave(about),
    )
    with self._room():
      self._manager.save(step, args=args, force=True)

  def restore(self, shapes: TrainState) -> tuple[TrainState, dict, bool] | None:
    """The newest whole checkpoint, or None where there is none.

    Args:
      shapes: the state as ShapeDtypeStructs with shardings.

    Returns:
      The state, the spec, and whether it was evaluated, as saved.

    Raises:
      UserError: there are checkpoints, but none can be read.
      TryAgain: the newest one is damaged for some processes and not for all.
    """
    items = dict(
        params=ocp.args.StandardRestore(shapes.params),
        rest=ocp.args.StandardRestore(_rest(shapes)),
        spec=ocp.args.JsonRestore(),
    )
    found = self._newest(items)
    if found is None:
      return None
    state = TrainState(params=found["params"], **found["rest"])
    return state, found["spec"], found["about"].get("evaluated", True)

  def wait(self) -> None:
    """Returns when all is on disk."""
    with self._room():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and releases the threads."""
    self.wait()
    self._manager.close()

  def _newest(self, items: Mapping[str, Any]) -> dict[str, Any] | None:
    reasons, steps = {}, self.steps()
    for step in steps:
      found, problem = {}, ""
      try:
        found = self._read(step, items)
      # Orbax raises whatever its parts do: OSError, KeyError, ValueError, ...
      except Exception as e:  # pylint: disable=broad-except
        problem = f"{type(e).__name__}: {first_line(e)}"
      problem = self._agree(step, problem, last=step == steps[-1])
      if not problem:
        self._set_aside(reasons)
        return found | {"step": step}
      reasons[step] = problem
      logging.warning("Checkpoint %d is unreadable: %s", step, problem)
    if reasons:
      listed = "; ".join(f"step {s}: {r}" for s, r in reasons.items())
      raise UserError(
          f"No checkpoint in {self._folder} can be read by this config"
          f" ({listed}). If the config changed, use another workdir; if the"
          " files are damaged, move the folder away to start anew."
      )
    return None

  def _read(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a step, found to be what was saved."""
    # Those of earlier versions have no checksums.
    known = (self._folder / str(step) / "about").exists()
    more = {"about": ocp.args.JsonRestore()} if known else {}
    args = ocp.args.Composite(**items, **more)
    found = {"about": {}} | dict(self._manager.restore(step, args=args).items())
    if known:
      verify({name: found[name] for name in items}, found["about"])
    return found

  def _agree(self, step: int, problem: str, *, last: bool) -> str:
    """The problem that any process has with a step, "" if none has."""
    try:
      problems = self._peers.gather(
          f"restored {step}", problem, seconds=_AGREE_SECONDS
      )
    except TryAgain:
      # Those that could read it wait for this one, inside Orbax, for ever.
      if problem and not last:
        self._move(step)
      raise TryAgain(
          f"Checkpoint {step} could not be read by all processes"
          f" ({problem or 'it could by this one'}). Start the same command"
          " again: it goes on from an older one if this one stays unreadable."
      ) from None
    return next(filter(None, problems), "")

  def _set_aside(self, damaged: Mapping[int, str]) -> None:
    """Renames damaged steps, so that they can be saved again."""
    if not damaged:
      return
    if self._peers.index == 0:
      for step in damaged:
        self._move(step)
    self._peers.gather("set aside", sorted(damaged), seconds=_AGREE_SECONDS)
    self._manager.reload()

  def _move(self, step: int) -> None:
    target = self._folder.with_name(f"damaged_{step}")
    while target.exists():
      target = target.with_name(target.name + "_")
    with contextlib.suppress(FileNotFoundError):  # another process was first
      (self._folder / str(step)).rename(target)
      logging.warning("Moved the damaged checkpoint to %s", target)

  @contextlib.contextmanager
  def _room(self) -> Iterator[None]:
    """Saving in the body; a full disk is the user's to mend."""
    try:
      yield
    except Exception as e:
      if not any(reason in str(e) for reason in _FULL):
        raise
      # Orbax counts steps that it only began.
      whole = [s for s in self.steps() if (self._folder / str(s)).is_dir()]
      left = f"checkpoints/{whole[0]} is whole" if whole else "none is whole"
      raise UserError(
          f"The disk is full: a checkpoint could not be saved in {self._folder}"
          f" ({left}). Free some space and start the same command again."
      ) from e


def _rest(state: TrainState) -> dict[str, Any]:
  return {
      "step": state.step,
      "replaced": state.replaced,
      "opt_state": state.opt_state,
  }
