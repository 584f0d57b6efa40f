"""Sections of a config whose settings belong to no constructor."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ckpt:
  """The section config.ckpt: which checkpoints are made, and which are kept.

  Attributes:
    save_steps: number of steps between checkpoints.
    keep: number of newest checkpoints to keep.
    keep_every: also keep each checkpoint whose step is a multiple of this; 0
      keeps none of them.
    best: name of a metric; its best checkpoint is kept as well. "" keeps none.
    best_mode: "max" or "min", whichever is better; "" decides by the name, as
      `lower_is_better` does.
  """

  save_steps: int
  keep: int
  keep_every: int = 0
  best: str = ""
  best_mode: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping:
  """The section config.early_stopping; without it, a run makes all its steps.

  Attributes:
    metric: name of the metric that must improve.
    patience: number of evaluations without improvement that end the run.
    mode: "max", "min" or "", as `Ckpt.best_mode`.
    min_delta: the smallest change that is an improvement.
  """

  metric: str
  patience: int
  mode: str = ""
  min_delta: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wandb:
  """The section config.wandb; without it, nothing is sent to W&B.

  Attributes:
    project: name of the project.
    entity: user or team, or None for the default of the account.
    mode: "online", or "offline" to only write files.
    name: name of the run, or None to let W&B choose one.
  """

  project: str
  entity: str | None = None
  mode: str = "online"
  name: str | None = None


def lower_is_better(metric: str, mode: str = "") -> bool:
  """Whether a metric improves by falling.

  Args:
    metric: name of the metric, such as "loss/captions".
    mode: "max", "min", or "" to take losses for falling and the rest for
      rising.
  """
  return mode == "min" or (not mode and "loss" in metric)
