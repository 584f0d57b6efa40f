"""Saving and restoring checkpoints.

A checkpoint holds the train state, the data position and a spec of what the
weights were trained on. Orbax writes each step into a temporary folder in the
background, and renames the folder when it is complete. Checksums show whether
the values read are the values written. If a step cannot be read or its
checksums differ, restoring falls back to an older step.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policy_lib

from siglip_jax.errors import NO_ROOM
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.step import TrainState
from siglip_jax.weights import checksums
from siglip_jax.weights.workdirs import first_line
from siglip_jax.weights.workdirs import kept_steps
from siglip_jax.weights.workdirs import verify

_AGREE_SECONDS = 300.0
# TensorStore's errors contain these texts when the disk is full.
_DISK_FULL = [os.strerror(number) for number in NO_ROOM]


class Unreadable(UserError):
  """A checkpoint that cannot be read: damaged, or being deleted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
  """A checkpoint that was read.

  Attributes:
    state: the train state.
    spec: everything that the weights depend on, as saved.
    examples: position in the stream of training examples; None in a checkpoint
      of an earlier version, where it is the step times the batch size.
  """

  state: TrainState
  spec: dict
  examples: int | None


class Checkpoints:
  """The checkpoints of one workdir.

  Reading changes nothing on disk. The first save creates the folder and deletes
  half-written checkpoints of killed runs, so only the run that owns the workdir
  may save: a checkpoint that another run is still writing looks the same.

  Args:
    workdir: the run's working directory.
    keep: number of newest checkpoints to keep.
    keep_every: checkpoints whose step is a multiple of this are kept, too; 0
      keeps none.
    read_only: whether damaged checkpoints stay where they are.
    peers: the run's processes; by default the processes of JAX.

  Attributes:
    workdir: the run's working directory.
  """

  def __init__(
      self,
      workdir: str | Path,
      *,
      keep: int = 2,
      keep_every: int = 0,
      read_only: bool = False,
      peers: Peers | None = None,
  ):
    self.workdir = Path(workdir)
    self._folder = Path(workdir).absolute() / "checkpoints"
    self._peers, self._read_only = peers or Peers(), read_only
    self._best = _KeepBest()
    policies = [policy_lib.LatestN(keep), self._best]
    if keep_every:
      policies.append(policy_lib.EveryNSteps(keep_every))
    self._policy = policy_lib.AnyPreservationPolicy(policies)
    self._writer: ocp.CheckpointManager | None = None
    self._damaged: dict[int, str] = {}

  def steps(self) -> list[int]:
    """Returns the saved steps, newest first."""
    # Orbax gives a folder its name when all of the checkpoint is written.
    return sorted(kept_steps(self.workdir), reverse=True)

  def save(
      self,
      step: int,
      state: TrainState,
      spec: Mapping,
      *,
      examples: int,
      best: int | None = None,
  ) -> None:
    """Saves in the background; returns once the state may change again.

    Args:
      step: number of updates made.
      state: the state after these updates.
      spec: everything that the weights depend on.
      examples: position in the stream of training examples.
      best: step of the best checkpoint so far, which is not deleted.

    Raises:
      UserError: the disk is full; the save that failed may be the previous one.
    """
    writer = self._open()
    self._best.step = best
    if step in writer.all_steps():
      return
    rest = _rest(state)
    about = {
        "params": checksums.of_arrays(state.params),
        "rest": checksums.of_arrays(rest),
        "spec": checksums.of_json(spec),
        "examples": examples,
    }
    args = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(rest),
        spec=ocp.args.JsonSave(dict(spec)),
        about=ocp.args.JsonSave(about),
    )
    with self._explain_full_disk():
      writer.save(step, args=args, force=True)

  def restore(
      self, shapes: TrainState, step: int | None = None
  ) -> Saved | None:
    """Restores a checkpoint; call `set_aside` once the run goes on from it.

    Args:
      shapes: the state as ShapeDtypeStructs with shardings.
      step: step of the checkpoint; by default the newest that can be read.

    Returns:
      The checkpoint, or None if there are none at all.

    Raises:
      UserError: there are checkpoints, but none can be read.
      TryAgain: a checkpoint is damaged for some processes but not for all.
    """
    items = dict(
        params=ocp.args.StandardRestore(shapes.params),
        rest=ocp.args.StandardRestore(_rest(shapes)),
        spec=ocp.args.JsonRestore(),
    )
    saved = self._newest(items, self.steps() if step is None else [step])
    if saved is None:
      return None
    return Saved(
        state=TrainState(params=saved["params"], **saved["rest"]),
        spec=saved["spec"],
        examples=saved["about"].get("examples"),
    )

  def restore_params(self, shapes: dict, step: int) -> tuple[dict, dict]:
    """Restores the parameters and the spec of one checkpoint.

    Args:
      shapes: the parameters as ShapeDtypeStructs with shardings.
      step: step of the checkpoint.

    Raises:
      Unreadable: the checkpoint cannot be read.
      TryAgain: it is damaged for some processes but not for all.
    """
    items = dict(
        params=ocp.args.StandardRestore(shapes), spec=ocp.args.JsonRestore()
    )
    saved = self._newest(items, [step])
    assert saved is not None
    return saved["params"], saved["spec"]

  def misfits(
      self,
      shapes: TrainState,
      step: int | None = None,
      *,
      params_only: bool = False,
  ) -> list[str]:
    """Names the arrays of a checkpoint that a state does not have.

    Only the metadata are read. If they cannot be, the list is empty: restoring
    says why.

    Args:
      shapes: the state as ShapeDtypeStructs.
      step: step of the checkpoint; by default the newest that can be read.
      params_only: whether to leave out all but the parameters.

    Returns:
      One phrase for each array that differs in name, shape or type.
    """
    wanted = {"params": _named_shapes(shapes.params)}
    if not params_only:
      wanted["rest"] = _named_shapes(_rest(shapes))
    handler = ocp.PyTreeCheckpointHandler()
    for saved_step in self.steps() if step is None else [step]:
      saved = {}
      try:
        for item in wanted:
          path = epath.Path(self._folder / str(saved_step) / item)
          saved[item] = _named_shapes(handler.metadata(path).tree)
      except Exception:  # pylint: disable=broad-except
        continue  # damaged, in any way
      return [
          f"{name} is {saved[item].get(name, 'missing')} in the checkpoint and"
          f" {wanted[item].get(name, 'missing')} here"
          for item in wanted
          for name in sorted(saved[item].keys() | wanted[item].keys())
          if saved[item].get(name) != wanted[item].get(name)
      ]
    return []

  def set_aside(self) -> None:
    """Renames the damaged checkpoints that `restore` passed over.

    Their steps can be saved again then.
    """
    if not self._damaged:
      return
    if self._peers.index == 0:
      for step in self._damaged:
        self._move(step)
    self._peers.gather(
        "set aside", sorted(self._damaged), seconds=_AGREE_SECONDS
    )
    self._damaged = {}

  def wait(self) -> None:
    """Waits until every save is on disk."""
    if self._writer is not None:
      with self._explain_full_disk():
        self._writer.wait_until_finished()

  def close(self) -> None:
    """Waits as `wait` does and releases the threads."""
    if self._writer is not None:
      self.wait()
      self._writer.close()

  def _open(self) -> ocp.CheckpointManager:
    """Returns the manager that saves."""
    if self._writer is None:
      options = ocp.CheckpointManagerOptions(
          preservation_policy=self._policy, cleanup_tmp_directories=True
      )
      self._writer = ocp.CheckpointManager(self._folder, options=options)
    return self._writer

  def _newest(
      self, items: Mapping[str, Any], steps: Sequence[int]
  ) -> dict[str, Any] | None:
    reasons = {}
    for step in steps:
      saved, problem = {}, ""
      try:
        saved = self._read(step, items)
      # Orbax passes on any error of its parts: OSError, KeyError, ValueError...
      except Exception as e:  # pylint: disable=broad-except
        problem = f"{type(e).__name__}: {first_line(e)}"
      problem = self._gather_problem(step, problem, last=step == steps[-1])
      if not problem:
        self._damaged = reasons
        return saved
      reasons[step] = problem
      logging.warning("Checkpoint %d is unreadable: %s", step, problem)
    if reasons:
      listed = "; ".join(f"step {s}: {r}" for s, r in reasons.items())
      advice = (
          "The run may be deleting it, or its files are damaged: evaluate"
          " another step."
          if self._read_only
          else "If the files are damaged, move the folder away to start again."
      )
      raise Unreadable(
          f"No checkpoint in {self._folder} can be read ({listed}). {advice}"
      )
    return None

  def _read(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the items of a step and verifies their checksums."""
    # Checkpoints of earlier versions have no checksums.
    has_checksums = (self._folder / str(step) / "about").exists()
    extra = {"about": ocp.args.JsonRestore()} if has_checksums else {}
    args = ocp.args.Composite(**items, **extra)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
      restored = reader.restore(self._folder / str(step), args=args)
    saved = {"about": {}} | dict(restored.items())
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
      if problem and not last and not self._read_only:
        self._move(step)
      raise TryAgain(
          f"Checkpoint {step} could not be read by all processes"
          f" ({problem or 'it could by this one'}). Start the same command"
          " again: it goes on from an older one if this one stays unreadable."
      ) from None
    return next(filter(None, problems), "")

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
      steps = self.steps()
      status = f"checkpoints/{steps[0]} is whole" if steps else "none is whole"
      raise UserError(
          f"The disk is full: a checkpoint could not be saved in {self._folder}"
          f" ({status}). Free some space and start the same command again."
      ) from e


class _KeepBest:
  """A rule that keeps the checkpoint of one step."""

  step: int | None = None

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    return [info.step == self.step for info in checkpoints]


def _named_shapes(tree: Any) -> dict[str, str]:
  """Returns name -> shape and type, written out, of each array of a tree."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
      jax.tree_util.keystr(path, simple=True, separator="/"): (
          f"{jnp.dtype(x.dtype)}{list(x.shape)}"
      )
      for path, x in leaves
  }


def _rest(state: TrainState) -> dict[str, Any]:
  return {
      "step": state.step,
      "replaced": state.replaced,
      "opt_state": state.opt_state,
  }
