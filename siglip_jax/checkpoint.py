"""Saving and restoring checkpoints.

A checkpoint holds the train state, the data position and a spec of what the
weights were trained on. Orbax writes each step into a temporary folder in the
background, and renames the folder when it is complete. Checksums show whether
the values read are the values written. If a step cannot be read or its
checksums differ, restoring falls back to an older step.
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
# TensorStore's errors contain these texts when the disk is full.
_DISK_FULL = [os.strerror(number) for number in NO_ROOM]


class Checkpoints:
  """The checkpoints of one workdir.

  Args:
    workdir: the run's working directory.
    keep: number of checkpoints to keep.
    clean: whether to delete half-written checkpoints of killed runs. Only the
      run that saves may do this, because a checkpoint that another run is still
      writing looks the same.
    peers: the run's processes; by default the processes of JAX.

  Attributes:
    workdir: the run's working directory.
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
    """Returns the saved steps, newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def save(
      self, step: int, state: TrainState, spec: Mapping, evaluated: bool = True
  ) -> None:
    """Saves in the background; returns once the state may change again.

    Args:
      step: number of updates made.
      state: the state after these updates.
      spec: everything that the weights depend on.
      evaluated: whether the evaluations due at this step are done.

    Raises:
      UserError: the disk is full; the save that failed may be the previous one.
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
    with self._explain_full_disk():
      self._manager.save(step, args=args, force=True)

  def restore(self, shapes: TrainState) -> tuple[TrainState, dict, bool] | None:
    """Restores the newest readable checkpoint.

    Args:
      shapes: the state as ShapeDtypeStructs with shardings.

    Returns:
      (state, spec, evaluated) as saved, or None if there are no checkpoints.

    Raises:
      UserError: there are checkpoints, but none can be read.
      TryAgain: a checkpoint is damaged for some processes but not for all.
    """
    items = dict(
        params=ocp.args.StandardRestore(shapes.params),
        rest=ocp.args.StandardRestore(_rest(shapes)),
        spec=ocp.args.JsonRestore(),
    )
    saved = self._newest(items)
    if saved is None:
      return None
    state = TrainState(params=saved["params"], **saved["rest"])
    return state, saved["spec"], saved["about"].get("evaluated", True)

  def wait(self) -> None:
    """Waits until every save is on disk."""
    with self._explain_full_disk():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits as `wait` does and releases the threads."""
    self.wait()
    self._manager.close()

  def _newest(self, items: Mapping[str, Any]) -> dict[str, Any] | None:
    reasons, steps = {}, self.steps()
    for step in steps:
      saved, problem = {}, ""
      try:
        saved = self._read(step, items)
      # Orbax passes on any error of its parts: OSError, KeyError, ValueError...
      except Exception as e:  # pylint: disable=broad-except
        problem = f"{type(e).__name__}: {first_line(e)}"
      problem = self._gather_problem(step, problem, last=step == steps[-1])
      if not problem:
        self._set_aside(reasons)
        return saved
      reasons[step] = problem
      logging.warning("Checkpoint %d is unreadable: %s", step, problem)
    if reasons:
      listed = "; ".join(f"step {s}: {r}" for s, r in reasons.items())
      raise UserError(
          f"No checkpoint in {self._folder} can be read by this config"
          f" ({listed}). If the config changed, use another workdir; if the"
          " files are damaged, move the folder away to start again."
      )
    return None

  def _read(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the items of a step and verifies their checksums."""
    # Checkpoints of earlier versions have no checksums.
    has_checksums = (self._folder / str(step) / "about").exists()
    extra = {"about": ocp.args.JsonRestore()} if has_checksums else {}
    args = ocp.args.Composite(**items, **extra)
    saved = {"about": {}} | dict(self._manager.restore(step, args=args).items())
    if has_checksums:
      verify({name: saved[name] for name in items}, saved["about"])
    return saved

  def _gather_problem(self, step: int, problem: str, *, last: bool) -> str:
    """Returns a problem that some process has with a step, or ""."""
    try:
      problems = self._peers.gather(
          f"restored {step}", problem, seconds=_AGREE_SECONDS
      )
    except TryAgain:
      # Processes that could read the step wait inside Orbax forever for those
      # that could not, so the run must restart without this step.
      if problem and not last:
        self._move(step)
      raise TryAgain(
          f"Checkpoint {step} could not be read by all processes"
          f" ({problem or 'it could by this one'}). Start the same command"
          " again: it goes on from an older one if this one stays unreadable."
      ) from None
    return next(filter(None, problems), "")

  def _set_aside(self, damaged: Mapping[int, str]) -> None:
    """Renames the folders of damaged steps, so that they can be saved again."""
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
  def _explain_full_disk(self) -> Iterator[None]:
    """Turns a full disk in the body into a UserError."""
    try:
      yield
    except Exception as e:
      if not any(text in str(e) for text in _DISK_FULL):
        raise
      # Orbax also lists steps that it has only started to write.
      steps = [s for s in self.steps() if (self._folder / str(s)).is_dir()]
      status = f"checkpoints/{steps[0]} is whole" if steps else "none is whole"
      raise UserError(
          f"The disk is full: a checkpoint could not be saved in {self._folder}"
          f" ({status}). Free some space and start the same command again."
      ) from e


def _rest(state: TrainState) -> dict[str, Any]:
  return {
      "step": state.step,
      "replaced": state.replaced,
      "opt_state": state.opt_state,
  }
