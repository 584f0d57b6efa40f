"""Reading and training of tokenizers.

  python -m siglip_jax.data.tokenizer --path=IMAGES --out=tokenizer.model

trains a tokenizer on the captions of a folder; --name=DATA_SET, on those of a
TFDS data set.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import hashlib
import io
import itertools
import os
from pathlib import Path
import re
from typing import Any

from absl import flags
from google.protobuf import message as protobuf
from jaxtyping import Int32
import numpy as np
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from siglip_jax import cli
from siglip_jax import files
from siglip_jax.errors import UserError

EOS_ID = 1
_EOS_NAMES = ("<eos>", "</s>")
SPACE = "\u2581"  # SentencePiece's symbol for a space


class TokenizerMissing(UserError):
  """The tokenizer file does not exist."""


class Tokenizer:
  """A tokenizer from a SentencePiece .model or a tokenizers library's .json.

  Attributes:
    path: the tokenizer's file.
    digest: sha256 of the file.
    file_name: usual name of a file of this kind, whatever its own name is:
      tokenizer.model or tokenizer.json.
  """

  def __init__(self, path: files.AnyPath):
    """Reads the file.

    Args:
      path: the tokenizer's file, local or remote.

    Raises:
      TokenizerMissing: when the file does not exist.
      UserError: when the file is damaged or has no end-of-sentence token.
    """
    data = files.read_bytes(path)
    if data is None:
      raise TokenizerMissing(
          f"There is no tokenizer {os.fspath(path)}: expected a SentencePiece"
          " model or a tokenizer.json. Give the file, or train one on captions:"
          " `python -m siglip_jax.data.tokenizer`."
      )
    self.path = path
    self.digest = hashlib.sha256(data).hexdigest()
    self.file_name = file_name(data)
    self._model = FORMATS[self.file_name](path, data)

  @property
  def vocab_size(self) -> int:
    """The number of pieces."""
    return self._model.vocab_size

  @property
  def eos_id(self) -> int:
    """The id of the end-of-sentence piece."""
    return self._model.eos_id

  def read_bytes(self) -> bytes:
    """Returns the content of the file.

    Raises:
      UserError: the file is gone, or has changed since it was opened.
    """
    data = files.read_bytes(self.path)
    if data is None or hashlib.sha256(data).hexdigest() != self.digest:
      raise UserError(
          f"The tokenizer {os.fspath(self.path)} must not change while it is in"
          " use; it did. Start again with the file that is wanted."
      )
    return data

  def encode(
      self,
      text: str,
      *,
      max_len: int,
      eos: str = "sticky",
      pad_value: int = 1,
      space: str = "plain",
  ) -> Int32[np.ndarray, " L"]:
    """Returns token ids of a text, as `encode_all` does of several."""
    options = {"eos": eos, "pad_value": pad_value, "space": space}
    return self.encode_all([text], max_len=max_len, **options)[0]

  def encode_all(
      self,
      texts: Sequence[str],
      *,
      max_len: int,
      eos: str = "sticky",
      pad_value: int = 1,
      space: str = "plain",
  ) -> Int32[np.ndarray, "N L"]:
    """Returns token ids of texts, cut or padded to `max_len`.

    Args:
      texts: any strings.
      max_len: length of the result.
      eos: "sticky" ends a text in the end-of-sentence id even if the text is
        cut, "yes" adds the id if there is room, "none" never adds it.
      pad_value: id to pad with; SigLIP pads with its end-of-sentence id, 1.
      space: "plain" treats white space as the model does. "marked" does as
        transformers does for SigLIP: every run of what Python calls white space
        becomes one space, and the text is preceded by an explicit space symbol.
    """
    if space == "marked":
      lists = [self._model.encode_marked(text) for text in texts]
    elif space == "plain":
      lists = self._model.encode(texts)
    else:
      raise UserError(f"space must be plain or marked; got {space!r}.")
    rows = np.full((len(texts), max_len), pad_value, np.int32)
    for row, ids in zip(rows, lists, strict=True):
      if eos == "sticky":
        ids = ids[: max_len - 1] + [self.eos_id]
      elif eos == "yes":
        ids = (ids + [self.eos_id])[:max_len]
      elif eos == "none":
        ids = ids[:max_len]
      else:
        raise UserError(f"eos must be sticky, yes or none; got {eos!r}.")
      row[: len(ids)] = ids
    return rows


def sentencepiece_proto(data: bytes) -> Any:
  """Parses the content of a SentencePiece model file into its message.

  Raises:
    protobuf.DecodeError: when the content is not such a message.
  """
  # protobuf creates its classes at import, where pyright does not see them.
  proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore
  proto.ParseFromString(data)
  return proto


class _SentencePiece:
  """A SentencePiece model."""

  def __init__(self, path: str | os.PathLike, data: bytes):
    self._model = spm.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(data)
      # SentencePiece silently accepts a file truncated between pieces, which
      # lacks the trainer_spec after them.
      whole = sentencepiece_proto(data).HasField("trainer_spec")
    except (RuntimeError, ValueError, protobuf.DecodeError):
      whole = False
    if not whole:
      raise UserError(
          f"{path} is not a SentencePiece model, or a damaged one: copy it"
          " again, or give another."
      )
    self.vocab_size = self._model.vocab_size()
    self.eos_id = self._model.eos_id()

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    # The loader has its own threads.
    return self._model.encode(list(texts), num_threads=1)

  def encode_marked(self, text: str) -> list[int]:
    # Encode after another piece, as transformers does: if several segmentations
    # score equally, the preceding piece decides between them.
    prefix = "<unk>"
    text = re.sub(r"\s+", " ", f"{SPACE}{text.replace(SPACE, ' ')}").rstrip()
    return self._model.encode(prefix + text)[len(self._model.encode(prefix)) :]


class _Json:
  """A tokenizer.json of the tokenizers library."""

  def __init__(self, path: str | os.PathLike, data: bytes):
    # Imported here because only tokenizer.json files need the library.
    import tokenizers

    try:
      self._model = tokenizers.Tokenizer.from_str(data.decode())
    # The library raises plain Exception.
    except Exception as e:  # pylint: disable=broad-except
      raise UserError(
          f"{path} is not a tokenizer of the tokenizers library, or a damaged"
          f" one: {e}. Copy it again, or give another."
      ) from None
    self._model.no_padding()
    self._model.no_truncation()
    # Treat "<eos>" in a text as ordinary text, as SentencePiece does.
    self._model.encode_special_tokens = True
    self.vocab_size = self._model.get_vocab_size()
    ids = [self._model.token_to_id(name) for name in _EOS_NAMES]
    if set(ids) == {None}:
      raise UserError(
          f"{path} must have an end-of-sentence token, one of"
          f" {', '.join(_EOS_NAMES)}; it has none."
      )
    self.eos_id = next(i for i in ids if i is not None)

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    encode = self._model.encode  # encode_batch would start threads
    return [encode(text, add_special_tokens=False).ids for text in texts]

  def encode_marked(self, text: str) -> list[int]:
    del text
    raise UserError('space="marked" is for SentencePiece models alone.')


# The name that a file of each format has, in a workdir and elsewhere -> reader.
FORMATS = {"tokenizer.model": _SentencePiece, "tokenizer.json": _Json}


def file_name(data: bytes) -> str:
  """Returns the file name of a tokenizer's format, one of `FORMATS`."""
  is_json = data.lstrip()[:1] == b"{"
  return "tokenizer.json" if is_json else "tokenizer.model"


def train(texts: Iterable[str], path: str | Path, *, vocab_size: int) -> None:
  """Trains a unigram model with byte fallback and writes it to `path`.

  Texts are lower-cased, as in preprocessing. A small corpus yields fewer pieces
  than `vocab_size`.

  Raises:
    UserError: when there are no texts, or more distinct characters than
      `vocab_size` can hold.
  """
  texts = sorted({t.lower() for t in texts if t.strip()})
  if not texts:
    raise UserError("A tokenizer needs texts to be trained on; there are none.")
  model = io.BytesIO()
  try:
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=EOS_ID,
        unk_id=2,
        bos_id=-1,
        num_threads=1,  # makes training deterministic
        minloglevel=2,
    )
  except RuntimeError as e:
    raise UserError(
        "vocab_size must hold 256 bytes, 3 special pieces and every character"
        f" of the texts; got {vocab_size}. Give more. ({e})"
    ) from None
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as partial:
    partial.write_bytes(model.getvalue())


def define_flags() -> None:
  """Defines the flags of the command."""
  # Encoding, which every process of a loader does, needs no data sets.
  from siglip_jax.data import named

  named.define_flags()
  flags.DEFINE_string("text", None, "Key of a text or several; or of a column.")
  flags.DEFINE_string("out", "tokenizer.model", "Tokenizer file to write.")
  flags.DEFINE_integer("vocab_size", 8000, "Maximum number of pieces.")
  flags.DEFINE_integer("most", 1_000_000, "Maximum number of records to read.")


def main(argv: Sequence[str]) -> None:
  """Trains a tokenizer on the captions of data."""
  del argv
  from siglip_jax.data import named
  from siglip_jax.data import sources
  from siglip_jax.data.texts import Texts

  args = flags.FLAGS
  source = named.source(args.text)
  step = -(-len(source) // max(args.most, 1))
  if step > 1:
    source = sources.Subset(source, range(0, len(source), step))
  captions = Texts.of("text", None)  # of which some records have none
  column = [captions.all({"text": v}) for v in sources.values(source, "text")]
  lists = ([c] if isinstance(c, str) else c for c in column)
  texts = list(itertools.chain.from_iterable(lists))
  train(texts, args.out, vocab_size=args.vocab_size)
  size = Tokenizer(args.out).vocab_size
  print(f"{args.out}: {size} pieces from {len(texts)} captions")


if __name__ == "__main__":
  cli.main(main, define_flags)
