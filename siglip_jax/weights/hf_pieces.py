"""SentencePiece models as the tokenizers library's."""

import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError

# Of trainer_spec.model_type.
_UNIGRAM, _BPE = 1, 2
# Of a piece's type.
_NORMAL, _USER_DEFINED = 1, 4


def read(data: bytes, *, path) -> tokenizers.Tokenizer:
  """From text to pieces, with the model's own normalisation.

  Args:
    data: of a SentencePiece model.
    path: where it is from, for errors.

  Raises:
    UserError: neither a unigram model nor one of byte pairs.
  """
  proto = tokenizer.sentencepiece_proto(data)
  kind = proto.trainer_spec.model_type
  if kind == _UNIGRAM:
    return _unigram(proto)
  if kind == _BPE:
    return _bpe(proto)
  raise UserError(
      f"{path}: of SentencePiece's models only the unigram kind and byte pairs"
      " can be given to transformers. Give the tokenizer.json of this one."
  )


def _unigram(proto) -> tokenizers.Tokenizer:
  trainer = proto.trainer_spec
  built = tokenizers.Tokenizer(
      models.Unigram(
          [(p.piece, p.score) for p in proto.pieces],
          trainer.unk_id,
          trainer.byte_fallback,
      )
  )
  built.normalizer = normalizers.Sequence(_normalizers(proto))
  scheme = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
  built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
  return built


def _bpe(proto) -> tokenizers.Tokenizer:
  trainer = proto.trainer_spec
  built = tokenizers.Tokenizer(
      models.BPE(
          {p.piece: i for i, p in enumerate(proto.pieces)},
          _merges(proto),
          unk_token=proto.pieces[trainer.unk_id].piece,
          fuse_unk=True,
          byte_fallback=trainer.byte_fallback,
      )
  )
  # No splitting at spaces, as pieces may have several.
  steps = [*_normalizers(proto), normalizers.Replace(" ", tokenizer.SPACE)]
  if proto.normalizer_spec.add_dummy_prefix:
    steps.append(normalizers.Prepend(tokenizer.SPACE))
  built.normalizer = normalizers.Sequence(steps)
  whole = [p.piece for p in proto.pieces if p.type == _USER_DEFINED]
  built.add_tokens([tokenizers.AddedToken(x, normalized=True) for x in whole])
  return built


def _merges(proto) -> list[tuple[str, str]]:
  """All pairs of pieces that are a piece, those it merges first in front.

  SentencePiece merges whatever neighbours make a piece, best score first.
  """
  pieces = [p for p in proto.pieces if p.type == _NORMAL]
  known = {p.piece for p in pieces}
  found = []
  for p in sorted(pieces, key=lambda p: -p.score):
    for i in range(1, len(p.piece)):
      pair = p.piece[:i], p.piece[i:]
      if pair[0] in known and pair[1] in known:
        found.append(pair)
  return found


def _normalizers(proto) -> list:
  spec, found = proto.normalizer_spec, []
  if "nfkc" in spec.name:
    # The library looks up a letter with its marks as one, and what it does not
    # find is cut or left decomposed: here its rules get composed letters.
    found.append(normalizers.NFKC())
  if spec.precompiled_charsmap:
    found.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    found.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    found.append(normalizers.Replace(tokenizers.Regex("^ | $"), ""))
  return found
