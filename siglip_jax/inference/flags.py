"""Flags that say which model to load, shared by the commands that use one."""

from absl import flags

from siglip_jax import inference
from siglip_jax.errors import UserError
from siglip_jax.inference.model import SigLIP


def define() -> None:
  """Defines --model, --weights, --tokenizer and --step."""
  flags.DEFINE_string(
      "model",
      None,
      "Workdir of a run, transformers folder, .npz, or a released model's"
      " name.",
  )
  flags.DEFINE_string(
      "weights", None, "Weights of the released model that --model names."
  )
  flags.DEFINE_string(
      "tokenizer", None, "Tokenizer's file, if the model has none."
  )
  define_step()


def define_step() -> None:
  """Defines --step."""
  flags.DEFINE_integer(
      "step",
      None,
      "Step of the checkpoint, if the model is the workdir of a run; by default"
      " the newest.",
  )


def load() -> SigLIP:
  """Loads the model that the flags name.

  Raises:
    UserError: no model is given, or it cannot be loaded.
  """
  values = flags.FLAGS
  if not values.model:
    raise UserError(
        "Give a model: --model=DIR, the --workdir of a run, or a transformers"
        " folder."
    )
  return inference.load(
      values.model,
      weights=values.weights,
      tokenizer=values.tokenizer,
      step=values.step,
  )
