"""Beside transformers itself: pip install -e '.[parity]'."""

import json
from pathlib import Path
import shutil

import awkward
import jax
import jax.numpy as jnp
import numpy as np
import parity_fixtures
import pytest
from sentencepiece import sentencepiece_model_pb2

import siglip_jax
from siglip_jax import tree
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers as folders

REASON = "no transformers or PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

DATA = Path("tests/fixtures").absolute()
IMAGES = awkward.images()
TEXTS = {
    "SiglipTokenizer": (
        f"--tokenizer={DATA / 'spiece.model'}",
        "--text=lower|strip_punctuation|tokenize(max_len=16, model='x',"
        " space='marked')",
    ),
    "a run's": (
        f"--tokenizer={DATA / 'spiece.model'}",
        "--text=lower|tokenize(max_len=16, model='x')",
    ),
    "Gemma's pairs": (
        f"--tokenizer={DATA / 'gemma.model'}",
        "--text=lower('characters')|tokenize(max_len=16, model='x',"
        " pad_value=0)",
    ),
    "Gemma's": (
        f"--tokenizer={DATA / 'gemma_tokenizer.json'}",
        "--text=lower('characters')|tokenize(max_len=16, model='x',"
        " pad_value=0)",
    ),
}


@pytest.fixture(scope="module", params=TEXTS)
def kind(request):
  return request.param


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
  """big_vision's tiny model with a row for each piece of all tokenizers."""
  params = big_vision.read(DATA / "big_vision_tiny.npz")
  rows = params["txt"]["Embed_0"]["embedding"]
  more = np.pad(rows, [(0, 701 - len(rows)), (0, 0)])
  params["txt"]["Embed_0"]["embedding"] = more
  path = tmp_path_factory.mktemp("roomy") / "roomy.npz"
  big_vision.write(path, params)
  return path


@pytest.fixture(scope="module")
def folder(kind, roomy, command, tmp_path_factory):
  """That model as a folder, with one of the tokenizers."""
  target = tmp_path_factory.mktemp("exported") / "folder"
  command.run(
      "siglip_jax.convert",
      *(roomy, target, "--to=transformers"),
      *("--image=decode|resize(32, method='bicubic')|value_range(-1,1)",),
      *("--image_size=32", *TEXTS[kind]),
      status=0,
  )
  return target


def outputs(folder, images, ids):
  model = transformers.SiglipModel.from_pretrained(folder).eval()
  with torch.no_grad():
    return model(
        input_ids=torch.tensor(np.array(ids)).long(),
        pixel_values=torch.tensor(np.array(images)).permute(0, 3, 1, 2),
        return_loss=True,
    )


def test_an_exported_model_says_the_same(folder):
  expected = np.load(DATA / "big_vision_tiny_expected.npz")
  found = outputs(folder, expected["image"], expected["text"])
  for name, x in (("zimg", found.image_embeds), ("ztxt", found.text_embeds)):
    np.testing.assert_allclose(x, expected[name], atol=1e-5)
  logits = found.logits_per_image
  np.testing.assert_allclose(logits, expected["logits"], atol=1e-5, rtol=1e-5)
  np.testing.assert_allclose(found.loss, expected["loss"], rtol=1e-5)


def test_an_exported_processor_prepares_the_same(folder, kind):
  processor = transformers.AutoProcessor.from_pretrained(folder)
  found = folders.read(folder)
  texts, rng = awkward.texts(), np.random.default_rng(0)
  theirs = processor(text=texts, padding="max_length", truncation=True)
  assert set(theirs) == {"input_ids"}  # A mask would be used.
  path, spec = (x.split("=", 1)[1] for x in TEXTS[kind])
  before = Preprocess(spec, tokenizer_path=path)
  after = Preprocess(found.text, tokenizer_path=found.tokenizer)
  for text, ids in zip(texts, theirs["input_ids"], strict=True):
    assert after({"text": text}, rng)["text"].tolist() == list(ids), repr(text)
    # A run of one letter can be cut in several ways that are equally good.
    if len(set(text)) > 1:
      ours = before({"text": text}, rng)["text"]
      assert ours.tolist() == list(ids), repr(text)
  assert found.image == "decode|resize(32, method='bicubic')|value_range(-1, 1)"
  image = IMAGES["transparent"]
  pixels = np.asarray(processor(images=image)["pixel_values"][0])
  ours = Preprocess("decode|resize(32, method='bicubic')")
  x = ours({"image": awkward.png(image)}, rng)["image"] / 127.5 - 1
  np.testing.assert_allclose(pixels.transpose(1, 2, 0), x, atol=1e-6)


def test_a_text_that_spells_a_special_token(folder):
  processor = transformers.AutoProcessor.from_pretrained(folder)
  found = folders.read(folder)
  ours = Preprocess(found.text, tokenizer_path=found.tokenizer)
  rng = np.random.default_rng(0)
  for text in ("a </s> b", "<unk>", "<pad>x", "<eos> <bos>", "</S>", "<mask>"):
    theirs = processor(text=[text], padding="max_length", truncation=True)
    ids = ours({"text": text}, rng)["text"].tolist()
    assert ids == list(theirs["input_ids"][0]), text


def test_what_transformers_saves_again_is_read_the_same(folder, tmp_path):
  processor = transformers.AutoProcessor.from_pretrained(folder)
  processor.save_pretrained(tmp_path)
  model = transformers.SiglipModel.from_pretrained(folder)
  model.save_pretrained(tmp_path)
  found, wanted = folders.read(tmp_path), folders.read(folder)
  assert found.image == wanted.image and found.model == wanted.model
  a, b = tree.flatten(found.params), tree.flatten(wanted.params)
  assert all(np.array_equal(a[name], x) for name, x in b.items())
  rng = np.random.default_rng(0)
  ours, theirs = (
      Preprocess(x.text, tokenizer_path=x.tokenizer) for x in (found, wanted)
  )
  for text in awkward.texts():
    np.testing.assert_array_equal(
        ours({"text": text}, rng)["text"], theirs({"text": text}, rng)["text"]
    )


def test_a_siglip2_model_of_square_images_of_any_size(command, tmp_path):
  folder, target = DATA / "hf_siglip2_tiny", tmp_path / "siglip"
  square = [x.resize((s, s)) for s, x in enumerate(IMAGES.values(), 20)]
  square = [x.convert("RGB") for x in square]
  processor = transformers.AutoImageProcessor.from_pretrained(folder)
  model = transformers.Siglip2Model.from_pretrained(folder).eval()
  inputs = processor(images=square, return_tensors="pt")
  with torch.no_grad():
    theirs = model.get_image_features(**inputs).pooler_output
  theirs = torch.nn.functional.normalize(theirs)
  zimg = siglip_jax.load(folder).encode_image(square)
  np.testing.assert_allclose(zimg, theirs, atol=1e-5)
  command.run(
      *("siglip_jax.convert", folder, target, "--to=transformers"), status=0
  )
  expected = np.load(folder / "expected.npz")
  found = outputs(target, expected["image"], expected["text"])
  for name, x in (("zimg", found.image_embeds), ("ztxt", found.text_embeds)):
    np.testing.assert_allclose(x, expected[name], atol=1e-5)
  np.testing.assert_allclose(
      found.logits_per_image, expected["logits"], atol=1e-5
  )
  np.testing.assert_allclose(found.loss, expected["loss"], rtol=1e-5)


def test_the_committed_numbers_are_what_it_says_today():
  texts = awkward.texts()
  expected = json.loads((DATA / "parity.json").read_text())
  fixtures = parity_fixtures
  assert expected["siglip"] == fixtures.ids(fixtures.siglip_tokenizer(), texts)
  assert expected["siglip2"] == fixtures.ids(
      fixtures.siglip2_tokenizer(), texts
  )
  pixels = np.load(DATA / "parity_pixels.npz")
  for kind, method in (("bicubic", 3), ("bilinear", 2)):
    for name, x in fixtures.transformers_pixels(method).items():
      np.testing.assert_allclose(
          x, pixels[f"{kind}/{name}"] / 127.5 - 1, atol=1e-6, err_msg=name
      )


def test_a_full_size_model_keeps_its_logits(command, tmp_path):
  variant, rng = zoo.get("siglip-b16-224"), np.random.default_rng(0)
  stacked = {
      name: rng.standard_normal(shape, np.float32) / 30
      for name, shape in variant.shapes.items()
  }
  params = layouts.unrolled(tree.unflatten(stacked))
  npz, folder = tmp_path / "b16.npz", tmp_path / "b16"
  big_vision.write(npz, params)
  arguments = ("siglip_jax.convert", npz, folder, "--to=transformers")
  assert "spiece.model of google/siglip-base" in command.refuse(*arguments)
  small = f"--tokenizer={DATA / 'spiece.model'}"
  assert "of 32000 pieces" in command.refuse(*arguments, small)
  _fill_up(DATA / "spiece.model", tmp_path / "t.model", 32_000)
  ours = f"--tokenizer={tmp_path / 't.model'}"
  assert "sha256 1e5036bed065...; " in command.refuse(*arguments, ours)
  # Whoever says how texts are prepared may bring a tokenizer of their own.
  text = f"--text={variant.transformers.text}"
  command.run(*arguments, ours, text, status=0)
  npz.unlink()
  found = folders.read(folder)
  images = rng.uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
  ids = rng.integers(0, 32_000, (2, 64), np.int32)
  theirs = outputs(folder, images, ids)
  shutil.rmtree(folder)
  flat, again = tree.flatten(params), tree.flatten(found.params)
  assert flat.keys() == again.keys()
  assert all(np.array_equal(again[n], x) for n, x in flat.items())
  model = TwoTowers(**variant.model, scan=True)

  @jax.jit
  def logits(params, images, ids):
    zimg = model.encode_image(params, images)
    ztxt = model.encode_text(params, ids)
    return jnp.exp(params["t"][0]) * zimg @ ztxt.T + params["b"][0]

  ours = logits(layouts.scanned(found.params), images, ids)
  np.testing.assert_allclose(ours, theirs.logits_per_image, atol=1e-5)


def _fill_up(source, target, pieces):
  """A SentencePiece model with pieces that no text has."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(source.read_bytes())
  for i in range(len(proto.pieces), pieces):
    proto.pieces.add(piece=f"<unused {i}>", score=0.0, type=5)
  target.write_bytes(proto.SerializeToString())
