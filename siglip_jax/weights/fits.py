"""Checks that a tokenizer, and a run's files, belong to the parameters.

Another model's tokenizer causes no error by itself: its ids select unrelated
rows of the token embedding.
"""

from collections.abc import Mapping

from siglip_jax import files
from siglip_jax import tree
from siglip_jax.data.embeddings import TOWER
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.data.tokenizer import TokenizerMissing
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import Weights


def check(
    tokenizer: Tokenizer,
    *,
    rows: int,
    variant: zoo.Variant | None = None,
    exact: bool = False,
) -> None:
  """Checks that a tokenizer fits a token embedding.

  Args:
    tokenizer: tokenizer that texts will be tokenized with.
    rows: number of rows of the token embedding, its vocab_size.
    variant: released model whose tokenizer it must be, by its digest where
      `zoo` has one and else by its number of pieces.
    exact: whether every row must have a piece; models trained with this package
      may have unused rows.

  Raises:
    UserError: the tokenizer does not fit.
  """
  pieces = tokenizer.vocab_size
  if variant is not None:
    variant.check_tokenizer(
        tokenizer.path, pieces=pieces, digest=tokenizer.digest
    )
  if not zoo.has_rows_for(rows, pieces) or (exact and pieces < rows):
    raise UserError(
        f"A token embedding of {rows} rows (config.model.text.vocab_size)"
        " needs a tokenizer of"
        f" {'' if exact else 'at most '}{rows} pieces; {tokenizer.path} has"
        f" {pieces}. Give the one that the weights were trained with; a model"
        " that starts at random can have another vocab_size."
    )


def check_digest(tokenizer: Tokenizer, digest: str | None) -> None:
  """Checks that a run's tokenizer is the one it was trained with.

  Raises:
    UserError: the file was replaced.
  """
  if digest is not None and tokenizer.digest != digest:
    raise UserError(
        f"{tokenizer.path} is not the tokenizer the weights were trained with:"
        f" sha256 {digest[:12]}..., got {tokenizer.digest[:12]}.... Restore the"
        " file."
    )


def check_run(weights: Weights) -> None:
  """Checks that a workdir holds a whole model, as its config.json says.

  Raises:
    UserError: config.json or the tower is missing, or the shapes differ.
  """
  if weights.model is None:
    raise UserError(weights.problem or f"{weights.path} has no model.")
  model = TwoTowers(**weights.model)
  if model.embedded:
    raise UserError(
        f"{weights.path} was trained on embeddings and holds no {TOWER}, the"
        " image tower that made them: copy it from the folder of embeddings."
    )
  side, length = weights.image_size, weights.text_len
  assert side is not None and length is not None, "config.json has both"
  shapes = model.shapes((side, side, 3), length)
  if _shapes(weights.params) != _shapes(shapes):
    raise UserError(
        f"Checkpoint {weights.step} of {weights.path} is not of the model in"
        " its config.json. The command that trained the run writes it again."
    )


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
  return {name: x.shape for name, x in tree.flatten(params).items()}


def open_text(
    spec: str,
    *,
    tokenizer: files.AnyPath | None = None,
    variant: zoo.Variant | None = None,
) -> Preprocess:
  """Parses a preprocessing string of texts and opens its tokenizer.

  Args:
    spec: preprocessing string of texts.
    tokenizer: path of the tokenizer's file, instead of the one in `spec`.
    variant: released model; if the tokenizer is missing, the error says where
      this model's is published.

  Raises:
    UserError: the string is wrong, or the tokenizer is missing or damaged.
  """
  try:
    return Preprocess(spec, tokenizer_path=tokenizer)
  except TokenizerMissing as e:
    if variant is None:
      raise
    raise UserError(
        f"{e} That of {variant.name} is published as"
        f" {variant.tokenizer_places}."
    ) from None
