"""Whether a tokenizer is the one that a model was trained with.

Another model's tokenizer raises no error by itself: its ids select rows of the
token embedding that mean something else.
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
    tokenizer: that texts will be tokenized with.
    rows: of the token embedding, vocab_size.
    variant: the released model whose tokenizer it must be, by its digest.
    exact: also require a piece for every row; models trained here may have
      unused rows.

  Raises:
    UserError: the tokenizer is another one.
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
  """Parses the preprocessing of texts and opens its tokenizer.

  Args:
    spec: the preprocessing string.
    tokenizer: the tokenizer's file, rather than the one in `spec`.
    variant: a released model, to say where its tokenizer is published.

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
