"""Conversion of SentencePiece models to the tokenizers library's."""

import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError

# Values of trainer_spec.model_type.
_UNIGRAM, _BPE = 1, 2
# Values of a piece's type.
_NORMAL, _USER_DEFINED = 1, 4


def read(data: bytes, *, path) -> tokenizers.Tokenizer:
  """Returns a tokenizer from text to pieces, with the model's normalisation.

  Args:
    data: content of a SentencePiece model's file.
    path: path of the file, for error messages.

  Raises:
    UserError: the model is neither unigram nor BPE.
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
  # Do not split at spaces: a piece may contain several.
  steps = [*_normalizers(proto), normalizers.Replace(" ", tokenizer.SPACE)]
  if proto.normalizer_spec.add_dummy_prefix:
    steps.append(normalizers.Prepend(tokenizer.SPACE))
  built.normalizer = normalizers.Sequence(steps)
  symbols = [p.piece for p in proto.pieces if p.type == _USER_DEFINED]
  built.add_tokens([tokenizers.AddedToken(x, normalized=True) for x in symbols])
  return built


def _merges(proto) -> list[tuple[str, str]]:
  """Returns all pairs of pieces that form a piece, in merge order.

  SentencePiece merges any neighbours that form a piece, best score first.
  """
  pieces = [p for p in proto.pieces if p.type == _NORMAL]
  known = {p.piece for p in pieces}
  pairs = []
  for p in sorted(pieces, key=lambda p: -p.score):
    for i in range(1, len(p.piece)):
      pair = p.piece[:i], p.piece[i:]
      if pair[0] in known and pair[1] in known:
        pairs.append(pair)
  return pairs


def _normalizers(proto) -> list:
  spec, steps = proto.normalizer_spec, []
  if "nfkc" in spec.name:
    # Compose letters and marks first. The library's `Precompiled` looks up a
    # letter together with its marks. If it does not find them, it cuts them or
    # leaves them decomposed.
    steps.append(normalizers.NFKC())
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(tokenizers.Regex("^ | $"), ""))
  return steps
