"""Writes tests/fixtures/parity.json and parity_pixels.npz with other libraries.

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

DATA = Path(__file__).parent / "fixtures"
SIDE, LENGTH = 24, 16
SIGLIP, GEMMA = DATA / "spiece.model", DATA / "gemma.model"
SMALL = DATA / "small.model"  # for models of few rows
GEMMA_JSON = DATA / "gemma_tokenizer.json"
# A language model's tokenizer keeps runs of these.
RUNS = ["\n", "\n\n", "\t"]


def train() -> None:
  """Two SentencePiece models, of the kinds the released ones are."""
  texts = [t.lower() for t in awkward.texts() for t in t.split("\n") if t]
  shared = dict(vocab_size=700, character_coverage=0.98)
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
    _train(path, texts, **shared | options)


def train_small() -> None:
  """A SentencePiece model of fewer pieces than any model here has rows."""
  _train(
      SMALL,
      ["a photo of a cat", "two dogs in the snow"],
      vocab_size=60,
      normalization_rule_name="identity",
      bos_id=-1,
      unk_id=2,
  )


def _train(path: Path, texts: list[str], **options) -> None:
  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      hard_vocab_limit=False,
      pad_id=0,
      eos_id=1,
      num_threads=1,
      minloglevel=2,
      **options,
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


def siglip2_folder(folder: Path) -> None:
  """A Siglip2Model of 4 x 4 patches, its processor, and what it says.

  Args:
    folder: gets the files, and expected.npz: `image` (B, H, W, 3) in [-1, 1],
      `text` (B, L), `zimg`, `ztxt`, `logits` (images x texts), `loss`.
  """
  import torch
  import transformers
  from transformers.models.siglip2 import image_processing_pil_siglip2

  torch.manual_seed(0)
  tokenizer, patch, grid = siglip2_tokenizer(), 8, 4
  shared = dict(hidden_size=48, num_hidden_layers=2)
  model = transformers.Siglip2Model(
      transformers.Siglip2Config(
          vision_config=shared
          | dict(intermediate_size=104, num_attention_heads=3)
          | dict(patch_size=patch, num_patches=grid**2),
          text_config=shared
          | dict(intermediate_size=96, num_attention_heads=2)
          | dict(vocab_size=len(tokenizer), max_position_embeddings=LENGTH)
          | dict(pad_token_id=0, eos_token_id=1, bos_token_id=None),
      )
  ).eval()
  with torch.no_grad():
    for x in model.parameters():  # biases are zero at first
      x.add_(torch.randn_like(x) / 20)
    model.logit_scale.fill_(2.0)
    model.logit_bias.fill_(-3.0)
  processor = image_processing_pil_siglip2.Siglip2ImageProcessorPil(
      patch_size=patch, max_num_patches=grid**2
  )
  side = patch * grid
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, side, side, 3), np.uint8)
  inputs = processor(images=list(images), return_tensors="pt")
  text = np.array(ids(tokenizer, awkward.texts()[::60][:5]), np.int32)
  with torch.no_grad():
    found = model(**inputs, input_ids=torch.tensor(text), return_loss=True)
  model.save_pretrained(folder)
  (folder / "model.safetensors").chmod(0o644)
  processor.save_pretrained(folder)
  shutil.copyfile(GEMMA, folder / "tokenizer.model")
  np.savez_compressed(
      folder / "expected.npz",
      allow_pickle=False,
      image=(images / 127.5 - 1).astype(np.float32),
      text=text,
      zimg=found.image_embeds,
      ztxt=found.text_embeds,
      logits=found.logits_per_image,
      loss=found.loss,
  )


def ids(tokenizer, texts) -> list[list[int]]:
  """As the model cards say."""
  found = tokenizer(
      list(texts), padding="max_length", truncation=True, max_length=LENGTH
  )
  return found["input_ids"]


def transformers_pixels(method: int) -> dict[str, np.ndarray]:
  """Images as transformers makes them, (H, W, 3) in [-1, 1]."""
  from transformers.models.siglip import image_processing_pil_siglip

  make = image_processing_pil_siglip.SiglipImageProcessorPil(
      size={"height": SIDE, "width": SIDE}, resample=method
  )
  return {
      name: make(image)["pixel_values"][0].transpose(1, 2, 0)
      for name, image in awkward.images().items()
  }


def big_vision_pixels() -> dict[str, np.ndarray]:
  """Images as big_vision makes them, bytes."""
  import tensorflow as tf

  found = {}
  for name, image in awkward.images().items():
    x = tf.io.decode_image(awkward.png(image), 3, expand_animations=False)
    x = tf.image.resize(x, (SIDE, SIDE), method="bilinear", antialias=False)
    found[name] = tf.cast(x, tf.uint8).numpy()
  return found


def main() -> None:
  """Writes all files."""
  train()
  train_small()
  siglip2_folder(DATA / "hf_siglip2_tiny")
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
