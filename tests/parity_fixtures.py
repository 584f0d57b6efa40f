"""Writes tests/data/parity.json and parity_pixels.npz with other libraries.

  pip install -e '.[parity]' tensorflow-cpu
  python tests/parity_fixtures.py

TensorFlow is only for the pixels of big_vision; without it they stay.
"""

import io
import json
from pathlib import Path
import shutil
import tempfile

import awkward
import numpy as np
import sentencepiece as spm

DATA = Path(__file__).parent / "data"
SIDE, LENGTH = 24, 16
SIGLIP, GEMMA = DATA / "spiece.model", DATA / "gemma.model"
GEMMA_JSON = DATA / "gemma_tokenizer.json"
# A language model's tokenizer keeps runs of these.
RUNS = ["\n", "\n\n", "\t"]


def train() -> None:
  """Two SentencePiece models, of the kinds the released ones are."""
  texts = [t.lower() for t in awkward.texts() for t in t.split("\n") if t]
  shared = dict(vocab_size=700, hard_vocab_limit=False, num_threads=1)
  shared |= dict(pad_id=0, eos_id=1, minloglevel=2, character_coverage=0.98)
  for path, options in (
      (SIGLIP, dict(bos_id=-1, unk_id=2)),
      (
          GEMMA,
          dict(
              model_type="bpe",
              bos_id=2,
              unk_id=3,
              eos_piece="<eos>",
              bos_piece="<bos>",
              byte_fallback=True,
              normalization_rule_name="identity",
              add_dummy_prefix=False,
              remove_extra_whitespaces=False,
              user_defined_symbols=RUNS,
          ),
      ),
  ):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **shared | options
    )
    path.write_bytes(model.getvalue())


def siglip_tokenizer():
  """transformers' tokenizer of SigLIP 1."""
  import transformers

  return transformers.SiglipTokenizer(str(SIGLIP))


def siglip2_tokenizer():
  """transformers' tokenizer of SigLIP 2."""
  import transformers

  config = {
      "tokenizer_class": "Siglip2Tokenizer",
      "add_bos_token": False,
      "add_eos_token": True,
      "padding_side": "right",
  }
  with tempfile.TemporaryDirectory() as folder:
    shutil.copyfile(GEMMA, Path(folder) / "tokenizer.model")
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.Siglip2Tokenizer.from_pretrained(folder)


def ids(tokenizer, texts) -> list[list[int]]:
  """As the model cards say."""
  found = tokenizer(
      list(texts), padding="max_length", truncation=True, max_length=LENGTH
  )
  return found["input_ids"]


def transformers_pixels(method: int) -> dict[str, np.ndarray]:
  """Pictures as transformers makes them, (H, W, 3) in [-1, 1]."""
  from transformers.models.siglip import image_processing_pil_siglip

  make = image_processing_pil_siglip.SiglipImageProcessorPil(
      size={"height": SIDE, "width": SIDE}, resample=method
  )
  return {
      name: make(picture)["pixel_values"][0].transpose(1, 2, 0)
      for name, picture in awkward.pictures().items()
  }


def big_vision_pixels() -> dict[str, np.ndarray]:
  """Pictures as big_vision makes them, bytes."""
  import tensorflow as tf

  found = {}
  for name, picture in awkward.pictures().items():
    x = tf.io.decode_image(awkward.png(picture), 3, expand_animations=False)
    x = tf.image.resize(x, (SIDE, SIDE), method="bilinear", antialias=False)
    found[name] = tf.cast(x, tf.uint8).numpy()
  return found


def main() -> None:
  """Writes all files."""
  train()
  texts = awkward.texts()
  gemma = siglip2_tokenizer()
  gemma._tokenizer.normalizer = gemma._tokenizer.normalizer[1]  # no Lowercase
  gemma._tokenizer.save(str(GEMMA_JSON))
  found = {
      "siglip": ids(siglip_tokenizer(), texts),
      "siglip2": ids(siglip2_tokenizer(), texts),
  }
  (DATA / "parity.json").write_text(json.dumps(found) + "\n")
  path = DATA / "parity_pixels.npz"
  pixels = dict(np.load(path)) if path.exists() else {}
  for kind, method in (("bicubic", 3), ("bilinear", 2)):
    for name, x in transformers_pixels(method).items():
      pixels[f"{kind}/{name}"] = np.rint((x + 1) * 127.5).astype(np.uint8)
  try:
    for name, x in big_vision_pixels().items():
      pixels[f"big_vision/{name}"] = x
  except ImportError:
    print("without TensorFlow big_vision's pixels stay as they are")
  np.savez_compressed(path, allow_pickle=False, **pixels)


if __name__ == "__main__":
  main()
