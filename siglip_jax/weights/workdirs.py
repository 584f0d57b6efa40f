"""Parameters from a workdir's checkpoints, read without a train state."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from siglip_jax.errors import UserError
from siglip_jax.weights import checksums
from siglip_jax.weights import places


def kept_steps(workdir: str | Path) -> list[int]:
  """Returns the steps of a workdir's whole checkpoints, oldest first."""
  # Orbax gives a folder its name once all of the checkpoint is written.
  folders = (Path(workdir) / "checkpoints").glob("*")
  names = [p.name for p in folders if p.is_dir()]
  return sorted(int(name) for name in names if places.is_step(name))


def read_params(
    workdir: str | Path, step: int | None = None
) -> tuple[dict, dict, int]:
  """Returns the parameters, the spec and the step of a checkpoint.

  The parameters are NumPy arrays of the types that were saved: a frozen tower
  may be bfloat16. The workdir is not changed, and the model need not be known.

  Args:
    workdir: folder of a run.
    step: step of the checkpoint; by default the newest that can be read.

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  folder, steps = Path(workdir).absolute() / "checkpoints", kept_steps(workdir)
  if not steps:
    raise UserError(f"There is no checkpoint in {folder}: train first.")
  if step is not None and step not in steps:
    raise places.not_kept(step, steps, folder)
  reasons = {}
  for candidate in reversed(steps) if step is None else [step]:
    try:
      return *_read_params(folder / str(candidate)), candidate
    # Orbax does not wrap errors of its parts: OSError, KeyError, ...
    except Exception as e:  # pylint: disable=broad-except
      reasons[candidate] = f"{type(e).__name__}: {first_line(e)}"
      logging.warning(
          "%s is unreadable: %s", folder / str(candidate), reasons[candidate]
      )
  listed = "; ".join(f"step {s}: {r}" for s, r in reasons.items())
  which = "No checkpoint" if step is None else f"Checkpoint {step}"
  can = "can" if step is None else "cannot"
  raise UserError(f"{which} in {folder} {can} be read ({listed}).")


def _read_params(step: Path) -> tuple[dict, dict]:
  handler, folder = ocp.PyTreeCheckpointHandler(), epath.Path(step / "params")
  numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = jax.tree.map(lambda _: numpy, handler.metadata(folder).tree)
  params = handler.restore(
      folder, args=ocp.args.PyTreeRestore(restore_args=args)
  )
  spec = _read_json(step / "spec")
  if (step / "about").exists():
    verify({"params": params, "spec": spec}, _read_json(step / "about"))
  return params, spec


def _read_json(item: Path) -> dict:
  return json.loads((item / "metadata").read_bytes())


def verify(found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
  """Verifies items of a checkpoint against the checksums saved with them.

  Args:
    found: item -> its content.
    about: item -> its checksum when it was saved.

  Raises:
    ValueError: an item is not what was saved.
  """
  for name, value in found.items():
    checksum = checksums.of_json if name == "spec" else checksums.of_arrays
    if checksum(value) != about[name]:
      raise ValueError(f"the checksum of {name!r} is not the one saved")


def first_line(e: Exception) -> str:
  """Returns the start of an error's message, at most 200 characters."""
  return (str(e).strip().splitlines() or [""])[0][:200]
