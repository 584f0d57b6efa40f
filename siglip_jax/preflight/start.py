"""The start of a run, from a checkpoint or from initial values."""

import dataclasses

from siglip_jax import checkpoint
from siglip_jax import init
from siglip_jax import metrics as metrics_lib
from siglip_jax import workdir as workdir_lib
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import meaning
from siglip_jax.errors import UserError
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.step import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """The start of a run: the state, its step, and whether it was evaluated."""

  state: TrainState
  step: int
  evaluated: bool


def restore_or_init(
    p: Prepared, checkpoints: checkpoint.Checkpoints, *, eval_only: bool
) -> Start:
  """Returns the newest checkpoint, or the initial state if there is none."""
  restored = checkpoints.restore(p.run.state_shapes)
  if restored is None:
    if eval_only:
      raise UserError("--eval_only needs a checkpoint; the workdir has none.")
    return Start(state=init.begin(p.run, p.spec), step=0, evaluated=True)
  state, saved, evaluated = restored
  for key, value in p.spec.items():
    same = saved.get(key) == value
    if key in ("image", "text"):
      same = meaning(saved[key]) == meaning(value)
    if not same:
      raise UserError(
          f"The checkpoint was trained with {key} = {saved.get(key)!r}, this"
          f" config has {value!r}. Restore the former, or use a new workdir."
      )
  step = int(state.step)
  if step > p.config.total_steps and not eval_only:
    raise UserError(
        f"The run has made {step} steps, and config.total_steps ="
        f" {p.config.total_steps} is fewer: raise it, or use a new workdir."
    )
  return Start(state=state, step=step, evaluated=evaluated)


def record_start(p: Prepared, start: Start, *, eval_only: bool) -> None:
  """Writes the config and tokenizer to the workdir, and rewinds its metrics.

  A run on embeddings also keeps the tower that made them.
  """
  if not p.main:
    return
  workdir_lib.write_config(p.config, p.workdir)
  workdir_lib.keep_tokenizer(p.pp.tokenizer, p.workdir)
  if isinstance(p.source, Embeddings):
    workdir_lib.keep_tower(p.source, p.workdir)
  again = not start.evaluated or start.step == p.config.total_steps
  metrics_lib.rewind(p.workdir, start.step, scores=eval_only or not again)
