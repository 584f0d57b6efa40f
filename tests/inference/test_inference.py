"""Weights of every origin, and what does not belong together."""

import dataclasses
from pathlib import Path
import pickle
import shutil
import sys

import awkward
import fakes
import numpy as np
import pytest
from safetensors import numpy as safetensors
from sentencepiece import sentencepiece_model_pb2

import siglip_jax
from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers
from siglip_jax.weights import workdirs

DATA = Path("tests/fixtures").absolute()
NPZ = DATA / "big_vision_tiny.npz"
FOLDER = DATA / "hf_siglip_tiny"
FOLDER2 = DATA / "hf_siglip2_tiny"


@pytest.fixture
def tiny(monkeypatch, fake_tokenizer):
  """A released model of the sizes of big_vision_tiny.npz."""
  rows = tokenizer.Tokenizer(fake_tokenizer).vocab_size
  recipe = zoo.Recipe(
      image="decode|resize(32)|value_range(-1, 1)",
      text="lower|tokenize(max_len=16, model='tiny_kind')",
      weights="gs://somewhere/tiny.npz",
      tokenizer="gs://somewhere/tiny.model",
  )
  variant = zoo.Variant(
      name="tiny-b8-32",
      model=dict(
          image=dict(
              variant="mu/8", width=64, depth=2, mlp_dim=160, num_heads=4
          ),
          text=dict(
              width=64, depth=3, mlp_dim=128, num_heads=2, vocab_size=256
          ),
          out_dim=(None, 64),
      ),
      image_size=32,
      text_len=16,
      tokenizer="tiny_kind",
      big_vision=recipe,
      transformers=recipe,
  )
  assert rows != 256
  monkeypatch.setitem(zoo._VARIANTS, variant.name, variant)
  return variant


@pytest.fixture(scope="module")
def fake_tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "a.model"
  many = [chr(c) * 3 for c in range(0x4E00, 0x4E50)]
  tokenizer.train([*many, "some words"], path, vocab_size=350)
  return path


def check_big_vision(model):
  e = np.load(DATA / "big_vision_tiny_expected.npz")
  zimg, ztxt = model.encode_image(e["image"]), model.encode_text(e["text"])
  np.testing.assert_allclose(zimg, e["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, e["ztxt"], atol=1e-5)
  np.testing.assert_allclose(
      model.probabilities(zimg, ztxt), 1 / (1 + np.exp(-e["logits"])), atol=1e-5
  )


def test_a_name_with_weights_is_big_visions_model(tiny):
  check_big_vision(siglip_jax.load(tiny.name, weights=NPZ))


def test_an_npz_is_the_released_model_of_its_sizes(tiny, caplog):
  model = siglip_jax.load(NPZ)
  assert "is tiny-b8-32, because its shapes match" in caplog.text
  check_big_vision(model)
  assert model.spec["text"] == tiny.big_vision.text


def test_scanned_weights_and_a_variant_of_ones_own(tiny, tmp_path):
  scanned = layouts.scanned(big_vision.read(NPZ))
  big_vision.write(tmp_path / "scanned.npz", scanned)
  own = dataclasses.replace(tiny, name="mine")
  check_big_vision(siglip_jax.load(tmp_path / "scanned.npz", variant=own))


def test_a_transformers_folder():
  model = siglip_jax.load(FOLDER)
  e = np.load(FOLDER / "expected.npz")
  zimg = model.encode_image(e["image"].astype(np.float32))
  ztxt = model.encode_text(e["text"])
  np.testing.assert_allclose(zimg, e["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, e["ztxt"], atol=1e-5)
  expected = 1 / (1 + np.exp(-e["logits"]))
  np.testing.assert_allclose(
      model.probabilities(zimg, ztxt), expected, atol=1e-5
  )


def test_a_siglip2_folder_from_images_and_strings():
  model = siglip_jax.load(FOLDER2)
  e = np.load(FOLDER2 / "expected.npz")
  images = np.rint((e["image"] + 1) * 127.5).astype(np.uint8)
  zimg = model.encode_image(list(images))
  ztxt = model.encode_text(awkward.texts()[::60][:5])
  np.testing.assert_allclose(zimg, e["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, e["ztxt"], atol=1e-5)
  with pytest.raises(UserError, match="is a Siglip2Model, .* without that"):
    siglip_jax.load("siglip2-b16-256", weights=FOLDER2)


def test_outputs_that_are_not_finite_are_no_answer(tmp_path):
  folder = shutil.copytree(FOLDER2, tmp_path / "folder")
  whole = safetensors.load_file(folder / "model.safetensors")
  images = [np.zeros((5, 7, 3), np.uint8)]

  def model(name):
    bad = dict(whole, **{name: np.full_like(whole[name], np.nan)})
    safetensors.save_file(bad, folder / "model.safetensors")
    return siglip_jax.load(folder)

  with pytest.raises(UserError, match="must be finite; some are not"):
    model("vision_model.head.probe").encode_image(images)
  with pytest.raises(UserError, match="or from another copy"):
    model("text_model.head.bias").encode_text(["a"])
  with pytest.raises(UserError, match="must be finite"):
    model("logit_bias").classify(images, ["a"])


def test_a_named_folder_has_the_named_models_tokenizer(tmp_path, monkeypatch):
  """Its own, or one given by hand; without a name another is only told of."""
  named = _variant_of(FOLDER, monkeypatch)
  small = DATA / "small.model"
  folder = shutil.copytree(FOLDER, tmp_path / "folder")
  shutil.copyfile(small, folder / "spiece.model")
  assert siglip_jax.load(folder).encode_text(["a"]).shape == (1, 48)
  match = "hf-tiny needs the tokenizer mine, of 200 pieces; .* has"
  for options in ({}, {"tokenizer": DATA / "spiece.model"}):
    with pytest.raises(UserError, match=match):
      siglip_jax.load(named.name, weights=folder, **options)
  with pytest.raises(UserError, match="gone.* is published as there, and here"):
    siglip_jax.load(FOLDER, tokenizer="gone.model")
  match = "give load tokenizer=PATH of a copy of there, and here"
  with pytest.raises(UserError, match=match):
    siglip_jax.load(FOLDER).encode_text(["a"])


def test_a_tokenizer_by_hand_that_is_not_the_published_one_is_told_of(
    tmp_path, monkeypatch, caplog
):
  _variant_of(FOLDER, monkeypatch, tokenizer_sha256="1" * 64)
  path = tmp_path / "200.model"
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString((DATA / "small.model").read_bytes())
  while len(proto.pieces) < 200:
    proto.pieces.add(piece=f"<{len(proto.pieces)}>", score=0.0, type=5)
  path.write_bytes(proto.SerializeToString())
  siglip_jax.load(FOLDER, tokenizer=path)
  assert "has the sizes of hf-tiny. hf-tiny needs the tokenizer" in caplog.text


def _variant_of(folder, monkeypatch, **options):
  """A released model of a folder's sizes."""
  found = transformers.read(folder)
  recipe = zoo.Recipe(
      image=found.image, text=found.text, weights="x", tokenizer="there"
  )
  sizes = found.model["image"] | {"variant": "mu/8"}
  variant = zoo.Variant(
      name="hf-tiny",
      model=found.model
      | {"image": {k: sizes[k] for k in sizes if k != "patch"}},
      image_size=found.image_size,
      text_len=found.text_len,
      tokenizer="mine",
      big_vision=recipe,
      transformers=dataclasses.replace(recipe, tokenizer="here"),
      **options,
  )
  monkeypatch.setitem(zoo._VARIANTS, variant.name, variant)
  return variant


@pytest.mark.parametrize(
    "images, match",
    [
        (np.zeros((40, 50, 3), np.uint8), r"\(B, H, W, 3\); got \(40, 50, 3\)"),
        (np.zeros((40, 50), np.uint8), r"got \(40, 50\). Put a single"),
        ([np.zeros(5, np.uint8)], r"or \(H, W\); got ndarray of uint8 \(5,\)"),
        ([np.uint8(5)], r"or \(H, W\); got uint8 of uint8 \(\)"),
        (["x" * 300], "cannot be read: .*too long"),
        (["a\0b"], "cannot be read: .*null byte"),
        (["gone.png"], "no image gone.png: give the path"),
    ],
)
def test_what_is_no_list_of_images(tiny, images, match):
  with pytest.raises(UserError, match=match):
    siglip_jax.load(tiny.name, weights=NPZ).encode_image(images)


@pytest.mark.parametrize("path", ["gs://nowhere/x.npz", "nowhere://x/y"])
def test_places_that_cannot_be_reached(tiny, path, monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)  # as where it is missing
  for options in (
      dict(path=path),
      dict(path=tiny.name, weights=path),
      dict(path=tiny.name, weights=NPZ, tokenizer=path),
  ):
    with pytest.raises(UserError, match="cannot be reached: .*gcsfs"):
      siglip_jax.load(**options)


def test_bfloat16_is_near(tiny):
  images = [np.full((5, 7, 3), 90, np.uint8)]
  full, half = (
      siglip_jax.load(tiny.name, weights=NPZ, dtype=d).encode_image(images)
      for d in (None, "bfloat16")
  )
  assert 0 < np.abs(full - half).max() < 0.05 and half.dtype == np.float32


def test_every_released_model_is_told_apart_by_its_sizes():
  """Or an .npz could be taken for another one, and its texts misread."""
  sizes = [
      (
          v.model["image"]["variant"],
          v.model["text"]["variant"],
          v.model["text"]["vocab_size"],
          v.image_size,
          v.text_len,
      )
      for v in map(zoo.get, zoo.names())
  ]
  assert len(set(sizes)) == len(sizes) >= 25


def cut(path, source=NPZ, share=0.5):
  data = source.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])
  return path


def flipped(path):
  """A byte in the middle of an array is another one: zip's CRC must tell."""
  data = bytearray(NPZ.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  return path


def pickled(path):
  path.write_bytes(pickle.dumps({"params": 1}))
  return path


def pickles_inside(path):
  np.savez(path, img=np.array([{"a": 1}], dtype=object))
  return path


MISTAKES = [
    (lambda p, t: ("nowhere",), {}, "no nowhere: expected a workdir"),
    (lambda p, t: ("siglip-b16-25",), {}, "as 'siglip-b16-256'"),
    (lambda p, t: ("siglip-b16-256",), {}, r"needs weights=PATH: gs://.*npz"),
    (lambda p, t: (p / "gone.npz",), {}, "no .*gone.npz: expected"),
    (lambda p, t: (cut(p / "cut.npz"),), {}, "damaged or incomplete"),
    (lambda p, t: (flipped(p / "flip.npz"),), {}, "damaged or incomplete"),
    (lambda p, t: (pickled(p / "p.npz"),), {}, "is a Python pickle"),
    (lambda p, t: (pickles_inside(p / "o.npz"),), {}, "not a plain array"),
    (lambda p, t: (NPZ,), {"weights": NPZ}, "weights= goes with the name"),
    (lambda p, t: (FOLDER,), {"variant": "tiny-b8-32"}, "not tiny-b8-32's"),
    (lambda p, t: (NPZ,), {"variant": "siglip-b16-256"}, "weights are tiny-b8"),
    (lambda p, t: (NPZ,), {"variant": "nonesuch"}, "no released model 'nones"),
    (
        lambda p, t: ("siglip-b16-256",),
        {"weights": NPZ},
        "are tiny-b8-32's, not siglip-b16-256's",
    ),
    (
        lambda p, t: ("tiny-b8-32",),
        {"weights": FOLDER},
        "not tiny-b8-32's, nor any released model's",
    ),
    (lambda p, t: ("tiny-b8-32",), {"weights": "gone"}, "There is no gone"),
    (
        lambda p, t: ("tiny-b8-32",),
        {"weights": NPZ, "tokenizer": "gone.model"},
        "no tokenizer gone.model.*gs://somewhere/tiny.model",
    ),
    (
        lambda p, t: ("tiny-b8-32",),
        {"weights": NPZ, "tokenizer": NPZ},
        "not a SentencePiece model",
    ),
    (lambda p, t: (NPZ,), {"batch_size": 0}, "batch_size must be a positive"),
    (lambda p, t: (NPZ,), {"dtype": "int8"}, "dtype must be one of float32"),
]


@pytest.mark.parametrize("path, options, match", MISTAKES)
def test_mistakes_are_named(tiny, tmp_path, path, options, match):
  with pytest.raises(UserError, match=match):
    siglip_jax.load(*path(tmp_path, tiny), **options)


def test_texts_without_a_tokenizer_say_where_it_is(tiny):
  model = siglip_jax.load(tiny.name, weights=NPZ)
  model.encode_image([np.zeros((5, 7, 3), np.uint8)])  # needs none
  with pytest.raises(UserError, match="tokenizer=PATH .*gs://somewhere/tiny"):
    model.encode_text(["a"])
  with pytest.raises(UserError, match="without a tokenizer"):
    siglip_jax.load(FOLDER).classify([np.zeros((5, 7, 3), "u1")], ["a"])


def test_another_models_tokenizer_is_refused(tiny, fake_tokenizer):
  pieces = tokenizer.Tokenizer(fake_tokenizer).vocab_size
  with pytest.raises(UserError, match=f"of 200 pieces; .*a.model has {pieces}"):
    siglip_jax.load(FOLDER, tokenizer=fake_tokenizer)
  text = dict(tiny.model["text"], vocab_size=pieces + 1)
  other = dataclasses.replace(tiny, model=dict(tiny.model, text=text))
  params = big_vision.read(NPZ)
  rows = np.zeros((pieces + 1, 64), np.float32)
  params["txt"]["Embed_0"]["embedding"] = rows
  path = fake_tokenizer.parent / "larger.npz"
  big_vision.write(path, params)
  with pytest.raises(UserError, match=f"of {pieces + 1} pieces"):
    siglip_jax.load(path, variant=other, tokenizer=fake_tokenizer)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ("--model=NPZ", "sizes of no released model"),
        ("--model=CUT", "cut.npz is damaged or incomplete"),
        ("--model=PICKLE", "pickle.npz is a Python pickle"),
        ("--model=siglip-b16-256", "siglip-b16-256 needs weights=PATH"),
        ("--model=siglip-b16-256 --weights=NPZ", "not siglip-b16-256's"),
        ("--model=siglip-b16-256 --weights=GONE", "gone: expected a workdir"),
        ("--model=FOLDER", "without a tokenizer"),
        ("--model=TRUNCATED", "model.safetensors is damaged or incomplete"),
    ],
)
def test_the_command_line_says_it_in_one_line(
    command, tmp_path, arguments, match
):
  image = tmp_path / "a.png"
  image.write_bytes(fakes.png((1, 2, 3)))
  folder = shutil.copytree(FOLDER, tmp_path / "folder")
  cut(folder / "model.safetensors", FOLDER / "model.safetensors", 0.9)
  for name, path in {
      "NPZ": NPZ,
      "CUT": cut(tmp_path / "cut.npz"),
      "PICKLE": pickled(tmp_path / "pickle.npz"),
      "GONE": tmp_path / "gone",
      "FOLDER": FOLDER,
      "TRUNCATED": folder,
  }.items():
    arguments = arguments.replace(name, str(path))
  said = command.refuse(
      "siglip_jax.classify", image, "--labels=a", *arguments.split()
  )
  assert match in said


def test_any_kept_step_of_a_run_is_loaded(trained):
  first, last = workdirs.kept_steps(trained)
  newest, earlier = (siglip_jax.load(trained, step=s) for s in (None, first))
  assert (newest.spec["step"], earlier.spec["step"]) == (last, first)
  assert earlier.params["b"] != newest.params["b"]
  with pytest.raises(UserError, match=f"of step 7 in .* keeps {first}, {last}"):
    siglip_jax.load(trained, step=7)
  with pytest.raises(UserError, match="a transformers folder, and only the wo"):
    siglip_jax.load(FOLDER, step=first)
