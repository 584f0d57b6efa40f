"""Checks that a tokenizer is the one that a model was trained with.

Another model's tokenizer causes no error by itself: its ids select unrelated
rows of the token embedding.
"""

from siglip_jax import files
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.data.tokenizer import TokenizerMissing
from siglip_jax.errors import UserError
from siglip_jax.models import zoo


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
    variant: released model whose tokenizer it must be, by its digest.
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
