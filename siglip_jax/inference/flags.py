"""Flags that say which model to load, of every command that uses one."""

from absl import flags

from siglip_jax import inference
from siglip_jax.errors import UserError
from siglip_jax.inference.model import SigLIP

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir of a run, transformers folder, .npz, or a released model's name.",
)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Weights of the released model that --model names."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Tokenizer's file, where the model comes without."
)


def load() -> SigLIP:
  """Loads the model that the flags say.

  Raises:
    UserError: none is given, or it cannot be loaded.
  """
  if not _MODEL.value:
    raise UserError(
        "Give a model: --model=DIR, the --workdir of a run, or a transformers"
        " folder."
    )
  return inference.load(
      _MODEL.value, weights=_WEIGHTS.value, tokenizer=_TOKENIZER.value
  )
