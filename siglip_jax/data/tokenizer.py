"""Tokenizers, read and trained.

  python -m siglip_jax.data.tokenizer --path=IMAGES --out=tokenizer.model

trains one on the captions of a folder.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import hashlib
import io
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
from siglip_jax.data import sources
from siglip_jax.errors import UserError

EOS_ID = 1
_EOS_NAMES = ("<eos>", "</s>")
SPACE = "\u2581"  # what SentencePiece writes for a space


class TokenizerMissing(UserError):
  """There is no tokenizer at a path."""


class Tokenizer:
  """A tokenizer of a file: SentencePiece's .model, or tokenizers' .json.

  Attributes:
    path: of the file.
    digest: sha256 of the file.
    file_name: what a file of this kind is called, tokenizer.model or
      tokenizer.json, whatever `path` says.
  """

  def __init__(self, path: files.AnyPath):
    """Reads the file.

    Args:
      path: the file, local or remote.

    Raises:
      TokenizerMissing: there is no file.
      UserError: the file is damaged.
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
    is_json = data.lstrip()[:1] == b"{"
    self.file_name = "tokenizer.json" if is_json else "tokenizer.model"
    self._model = (_Json if is_json else _SentencePiece)(path, data)

  @property
  def vocab_size(self) -> int:
    """Number of pieces."""
    return self._model.vocab_size

  @property
  def eos_id(self) -> int:
    """The end of sentence."""
    return self._model.eos_id

  def read_bytes(self) -> bytes:
    """Returns the content of the file."""
    data = files.read_bytes(self.path)
    assert data is not None, self.path
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
    """Token ids, cut or padded to `max_len`.

    Args:
      text: any string.
      max_len: length of the result.
      eos: "sticky" ends even a cut text in the end-of-sentence id, "yes" adds
        it where there is room, "none" never does.
      pad_value: what fills up; SigLIP pads with its end-of-sentence id, 1.
      space: "plain" is as the model says; "marked" as transformers does for
        SigLIP: any run of what Python calls white space is one space, and the
        text comes after one that is written out.
    """
    if space == "marked":
      ids = self._model.encode_marked(text)
    elif space == "plain":
      ids = self._model.encode(text)
    else:
      raise UserError(f"space must be plain or marked; got {space!r}.")
    if eos == "sticky":
      ids = ids[: max_len - 1] + [self.eos_id]
    elif eos == "yes":
      ids = (ids + [self.eos_id])[:max_len]
    elif eos == "none":
      ids = ids[:max_len]
    else:
      raise UserError(f"eos must be sticky, yes or none; got {eos!r}.")
    padding = [pad_value] * (max_len - len(ids))
    return np.array(ids + padding, np.int32)


def sentencepiece_proto(data: bytes) -> Any:
  """A SentencePiece model as the message that its file is.

  Raises:
    protobuf.DecodeError: it is none.
  """
  # protobuf makes its classes when a module is loaded.
  proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore
  proto.ParseFromString(data)
  return proto


class _SentencePiece:
  """A SentencePiece model."""

  def __init__(self, path: str | os.PathLike, data: bytes):
    self._model = spm.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(data)
      # What is cut off between two pieces is read without a word.
      whole = sentencepiece_proto(data).HasField("trainer_spec")
    except (RuntimeError, ValueError, protobuf.DecodeError):
      whole = False
    if not whole:
      raise UserError(
          f"{path} is no SentencePiece model, or a damaged one: copy it again,"
          " or give another."
      )
    self.vocab_size = self._model.vocab_size()
    self.eos_id = self._model.eos_id()

  def encode(self, text: str) -> list[int]:
    return self._model.encode(text)

  def encode_marked(self, text: str) -> list[int]:
    # Behind another piece, as transformers has it: where several ways to cut a
    # text are equally good, what is before decides.
    before = "<unk>"
    text = re.sub(r"\s+", " ", f"{SPACE}{text.replace(SPACE, ' ')}").rstrip()
    return self._model.encode(before + text)[len(self._model.encode(before)) :]


class _Json:
  """A tokenizer.json of the tokenizers library."""

  def __init__(self, path: str | os.PathLike, data: bytes):
    # Only the models that come with such a file need the library.
    import tokenizers

    try:
      self._model = tokenizers.Tokenizer.from_str(data.decode())
    # The library raises plain Exceptions.
    except Exception as e:  # pylint: disable=broad-except
      raise UserError(
          f"{path} is no tokenizer of the tokenizers library, or a damaged one:"
          f" {e}. Copy it again, or give another."
      ) from None
    self._model.no_padding()
    self._model.no_truncation()
    # A text that spells "<eos>" is a text, as it is to SentencePiece.
    self._model.encode_special_tokens = True
    self.vocab_size = self._model.get_vocab_size()
    ids = [self._model.token_to_id(name) for name in _EOS_NAMES]
    if set(ids) == {None}:
      raise UserError(
          f"{path} must have an end-of-sentence token, one of"
          f" {', '.join(_EOS_NAMES)}; it has none."
      )
    self.eos_id = next(i for i in ids if i is not None)

  def encode(self, text: str) -> list[int]:
    return self._model.encode(text, add_special_tokens=False).ids

  def encode_marked(self, text: str) -> list[int]:
    del text
    raise UserError('space="marked" is for SentencePiece models alone.')


def train(texts: Iterable[str], path: str | Path, *, vocab_size: int) -> None:
  """Trains a unigram model with byte fallback and writes it to `path`.

  Texts are lower-cased, as preprocessing does. A small corpus gives fewer
  pieces than `vocab_size`.

  Raises:
    UserError: no texts, or more different characters than `vocab_size` holds.
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
        num_threads=1,  # the same model every time
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
  flags.DEFINE_string("path", None, "Folder of captioned images.")
  flags.DEFINE_string("out", "tokenizer.model", "File to write.")
  flags.DEFINE_integer("vocab_size", 8000, "Most pieces to learn.")


def main(argv: Sequence[str]) -> None:
  """Trains a tokenizer on a folder's captions."""
  del argv
  if not flags.FLAGS.path:
    raise UserError("--path=FOLDER is needed: images with captions.")
  source = sources.make(path=flags.FLAGS.path, split="train")
  texts = (source[i]["text"] for i in range(len(source)))
  train(texts, flags.FLAGS.out, vocab_size=flags.FLAGS.vocab_size)
  size = Tokenizer(flags.FLAGS.out).vocab_size
  print(f"{flags.FLAGS.out}: {size} pieces from {len(source)} captions")


if __name__ == "__main__":
  cli.main(main, define_flags)
