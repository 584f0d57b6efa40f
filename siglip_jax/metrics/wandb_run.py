"""A run of Weights & Biases (W&B), continued over restarts."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import importlib
import json
from pathlib import Path
import threading
from typing import Any
import uuid

from absl import logging

from siglip_jax import files
from siglip_jax.errors import UserError

_MODES = ("online", "offline")
_INIT_SECONDS = 30.0  # instead of W&B's 90, as training waits for it
_CLOSE_SECONDS = 120.0
# Setting of the seconds after which W&B's own file is written at the latest.
# With its default of 15, a process that is killed loses that many.
_FLUSH = "x_transaction_log_flush_interval"


def check_wandb(
    *,
    project: str,
    entity: str | None = None,
    mode: str = "online",
    name: str | None = None,
) -> None:
  """Raises UserError if config.wandb cannot be used on this machine."""
  del entity, name
  if not project:
    raise UserError(
        "config.wandb.project must name a project of W&B; it is empty."
    )
  if mode not in _MODES:
    raise UserError(
        f"config.wandb.mode must be one of {', '.join(_MODES)}; got {mode!r}."
    )
  _package()


class WandbRun:
  """A W&B run whose id is kept in the workdir, so that restarts continue it.

  W&B takes no step back. The file wandb.json holds the last step of each metric
  that was sent, and a process that goes on from an earlier step sends nothing
  until it is past that one. The values that it leaves out are the same, because
  a resumed run repeats its steps bit for bit (unless its config was changed).
  A step is noted before it is sent, and W&B sends in the background. So W&B may
  lack the last seconds before a process was killed, but has no step twice.

  A failure of W&B never ends the run. If W&B cannot be reached at the start,
  this process logs offline, for `wandb sync` to send later; if it fails later,
  the rest of this process is not logged.

  Args:
    workdir: the run's folder; W&B's own files are in its subfolder `wandb`.
    run_config: the run's config.
    beside: whether this process evaluates beside training. It then has a W&B
      run of its own, in the same group, and may log any step.
    project: project in W&B.
    entity: user or team in W&B; None for the default of the account.
    mode: "online", or "offline" to write files alone.
    name: name to show; None for one that W&B makes up.

  Raises:
    UserError: the package is missing, or an argument is invalid.
  """

  def __init__(
      self,
      workdir: str | Path,
      run_config: Mapping[str, Any],
      *,
      beside: bool,
      project: str,
      entity: str | None = None,
      mode: str = "online",
      name: str | None = None,
  ):
    check_wandb(project=project, entity=entity, mode=mode, name=name)
    self._path, self._beside = Path(workdir) / "wandb.json", beside
    self._id, self._last = self._known()
    self._run: Any = None
    with self._surviving():
      self._run = _start(
          mode,
          id=f"{self._id}-evals" if beside else self._id,
          name=f"{name} evals" if name and beside else name,
          job_type="eval" if beside else "train",
          group=self._id,
          project=project,
          entity=entity,
          dir=str(workdir),
      )
      # A later start may change the config, which `init` would refuse.
      self._run.config.update(dict(run_config), allow_val_change=True)
      # Scores may come at an earlier step than W&B's own counter.
      self._run.define_metric("*", step_metric="step")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the values that W&B does not have yet."""
    if self._run is not None and not self._beside:
      values = {k: v for k, v in values.items() if step > self._last.get(k, -1)}
      self._last |= dict.fromkeys(values, step)
      self._save()
    if self._run is not None and values:
      with self._surviving():
        self._run.log({"step": step, **values})

  def close(self, exit_code: int) -> None:
    """Ends the run; waits for what is not sent yet, but not forever."""
    if self._run is None:
      return
    closing = threading.Thread(
        target=self._finish, args=(exit_code,), daemon=True
    )
    closing.start()
    closing.join(_CLOSE_SECONDS)
    if closing.is_alive():
      logging.warning(
          "W&B did not take the last metrics within %d s. They are in %s, and"
          " `wandb sync` sends them.",
          _CLOSE_SECONDS,
          self._path.parent / "wandb",
      )

  def _finish(self, exit_code: int) -> None:
    with self._surviving():
      self._run.finish(exit_code=exit_code)

  @contextlib.contextmanager
  def _surviving(self) -> Iterator[None]:
    """Leaves W&B out from here on if the body fails."""
    try:
      yield
    # W&B raises exceptions of its own, and those of its connections.
    except Exception as e:  # pylint: disable=broad-except
      self._run = None
      logging.warning("W&B failed and is left out from here on: %s", _line(e))

  def _known(self) -> tuple[str, dict[str, int]]:
    """Returns the id, and metric -> last step; makes an id the first time."""
    try:
      known = json.loads(self._path.read_bytes())
      return known["id"], known["last"]
    except FileNotFoundError:
      pass
    except (ValueError, LookupError, TypeError):
      logging.warning("%s is damaged: another W&B run begins.", self._path)
    self._id, self._last = uuid.uuid4().hex[:8], {}
    self._save()
    return self._id, self._last

  def _save(self) -> None:
    with files.replacing(self._path) as partial:
      partial.write_text(json.dumps({"id": self._id, "last": self._last}))


def _start(mode: str, **options) -> Any:
  """Returns a run that is online if asked for and possible, or else offline."""
  wandb = _package()
  # W&B's capture of the console would break the progress bar.
  settings = wandb.Settings(console="off", init_timeout=_INIT_SECONDS)
  if hasattr(settings, _FLUSH):
    setattr(settings, _FLUSH, 1.0)
  options |= {"settings": settings, "resume": "allow"}
  try:
    return wandb.init(mode=mode, **options)
  # W&B raises exceptions of its own, and those of its connections.
  except Exception as e:  # pylint: disable=broad-except
    if mode == "offline":
      raise
    logging.warning(
        "W&B cannot be reached and logs offline, into %s: %s. `wandb login`"
        " stores a key; `wandb sync` sends what was logged.",
        Path(options["dir"]) / "wandb",
        _line(e),
    )
    wandb.teardown()  # Without it, W&B holds the id to be in use.
    return wandb.init(mode="offline", **options)


def _package() -> Any:
  try:
    return importlib.import_module("wandb")
  except ImportError:
    raise UserError(
        "config.wandb needs the package wandb, which is not installed: run"
        " `pip install -e .[wandb]`, or leave the section out."
    ) from None


def _line(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
