"""python -m siglip_jax.convert: every way round, and every way wrong."""

import json
from pathlib import Path
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors
import specs

import siglip_jax
from siglip_jax import tree
from siglip_jax.data import preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.weights import big_vision
from siglip_jax.weights import hf_tokenizer
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers
from siglip_jax.weights import workdirs

DATA = Path("tests/fixtures").absolute()
TINY, FOLDER = DATA / "big_vision_tiny.npz", DATA / "hf_siglip_tiny"
# What an .npz does not say.
IMAGES = ("--image=decode|resize(32)|value_range(-1,1)", "--image_size=32")
SIGLIP = (
    "--text=lower|strip_punctuation|tokenize(max_len=16, model='x',"
    " space='marked')",
    f"--tokenizer={DATA / 'small.model'}",
)
MODULE = "siglip_jax.convert"


def same(a, b):
  a, b = tree.flatten(layouts.unrolled(a)), tree.flatten(layouts.unrolled(b))
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_there_and_back_is_bit_exact(command, tmp_path):
  stacked, folder = tmp_path / "stacked.npz", tmp_path / "new" / "folder"
  big_vision.write(stacked, layouts.scanned(big_vision.read(TINY)))
  to = "--to=transformers"
  command.run(MODULE, stacked, folder, to, *IMAGES, *SIGLIP, status=0)
  back, again = tmp_path / "back.npz", tmp_path / "again"
  command.run(MODULE, folder, back, "--to=big_vision", status=0)
  assert same(big_vision.read(back), big_vision.read(TINY))
  done = command.run(MODULE, folder, again, to, status=0)
  assert f"{again}: transformers, from {folder}" in done.out
  files = {p.name: p.read_bytes() for p in folder.iterdir()}
  assert files == {p.name: p.read_bytes() for p in again.iterdir()}
  assert files["spiece.model"] == (DATA / "small.model").read_bytes()
  left = {p.name for p in tmp_path.iterdir()}
  assert left == {"stacked.npz", "new", "back.npz", "again"}


def test_transformers_folders_keep_their_tensors(command, tmp_path):
  npz, folder = tmp_path / "x.npz", tmp_path / "x"
  command.run(MODULE, FOLDER, npz, "--to=big_vision", status=0)
  command.run(
      *(MODULE, npz, folder, "--to=transformers", *IMAGES, *SIGLIP), status=0
  )
  a, b = (
      safetensors.load_file(f / "model.safetensors") for f in (FOLDER, folder)
  )
  assert a.keys() == b.keys()
  assert all(np.array_equal(a[k], b[k]) for k in a)


def test_a_siglip2_model_becomes_a_siglip_model(command, tmp_path):
  siglip2, npz, folder = (
      DATA / "hf_siglip2_tiny",
      tmp_path / "x.npz",
      tmp_path / "x",
  )
  command.run(MODULE, siglip2, npz, "--to=big_vision", status=0)
  command.run(MODULE, siglip2, folder, "--to=transformers", status=0)
  found, wanted = transformers.read(folder), transformers.read(siglip2)
  assert same(big_vision.read(npz), wanted.params)
  assert same(found.params, wanted.params)
  assert (found.naflex, wanted.naflex) == (False, True)
  assert found.image == wanted.image and "pad_value=0" in found.text
  arguments = (MODULE, siglip2, tmp_path / "y", "--to=transformers")
  said = command.refuse(*arguments, "--model=siglip2-b16-256")
  assert "and not siglip2-b16-256: use the folder without" in said


def test_a_run_becomes_a_folder_that_prepares_as_it_did(
    command, trained, tmp_path
):
  folder = tmp_path / "folder"
  command.run(MODULE, trained, folder, "--to=transformers", status=0)
  model, found = siglip_jax.load(trained), transformers.read(folder)
  assert same(found.params, {k: v for k, v in model.params.items()})
  assert (
      found.image == "decode|resize(16, method='bilinear')|value_range(-1, 1)"
  )
  ours = preprocess.Preprocess(
      model.spec["text"], tokenizer_path=trained / "tokenizer.model"
  )
  theirs = preprocess.Preprocess(found.text, tokenizer_path=found.tokenizer)
  rng = np.random.default_rng(0)
  for t in hf_tokenizer.PROBES:
    np.testing.assert_array_equal(
        ours({"text": t}, rng)["text"], theirs({"text": t}, rng)["text"]
    )
  config = json.loads((folder / "config.json").read_text())
  assert config["text_config"]["max_position_embeddings"] == 8


def test_nothing_is_replaced_unasked(command, tmp_path):
  target = tmp_path / "x.npz"
  target.write_text("mine")
  arguments = (MODULE, TINY, target, "--to=big_vision")
  assert "give --force" in command.refuse(*arguments)
  assert target.read_text() == "mine"
  command.run(*arguments, "--force", status=0)
  assert same(big_vision.read(target), big_vision.read(TINY))
  folder = tmp_path / "folder"
  folder.mkdir()
  (folder / "mine").write_text("mine")
  rest = ("--to=transformers", "--force", *IMAGES)
  said = command.refuse(MODULE, TINY, folder, *rest, *SIGLIP)
  assert "a folder, and none of transformers" in said
  (folder / "config.json").write_text('{"model_type": "siglip"}')
  # What fails leaves all as it was.
  command.refuse(MODULE, TINY, folder, *rest, "--text=lower")
  assert {p.name for p in folder.iterdir()} == {"mine", "config.json"}
  command.run(MODULE, TINY, folder, *rest, *SIGLIP, status=0)
  assert "mine" not in {p.name for p in folder.iterdir()}
  assert {p.name for p in tmp_path.iterdir()} == {"x.npz", "folder"}
  said = command.refuse(MODULE, folder, folder, "--to=transformers", "--force")
  assert "is the source: give another destination" in said


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((), "Give a source, a destination and a format"),
        ((TINY, "gs://a/b.npz", "--to=big_vision"), "must be a local path"),
        ((TINY, f"{TINY}/x", "--to=big_vision"), "x cannot be written: "),
        ((TINY, "{}"), "--to=big_vision|transformers"),
        ((TINY, "{}", "--to=torch"), "--to"),
        (
            ("gone.npz", "{}", "--to=big_vision"),
            "There is no gone.npz: expected a workdir",
        ),
        ((DATA, "{}", "--to=big_vision"), "holds no weights that are known"),
        (
            (TINY, "{}", "--to=big_vision", "--model=siglip-b16-224"),
            "not siglip-b16-224's, nor any released model's",
        ),
        (
            (TINY, "{}", "--to=big_vision", "--model=siglip-b16"),
            "did you mean 'siglip-b16-",
        ),
        ((TINY, "{}", "--to=transformers"), "give --image."),
        (
            (TINY, "{}", "--to=transformers", IMAGES[0], SIGLIP[0]),
            "image_size",
        ),
        (
            (TINY, "{}", "--to=transformers", *IMAGES, SIGLIP[0]),
            "There is no tokenizer x",
        ),
        (
            (TINY, "{}", "--to=transformers", *IMAGES, "--text=lower"),
            "must end in tokenize",
        ),
        (
            (TINY, "{}", "--to=transformers", *IMAGES, "--text=a b"),
            "operations with literal arguments",
        ),
        (
            (
                TINY,
                "{}",
                "--to=transformers",
                IMAGES[1],
                *SIGLIP,
                "--image=decode|resize(32, antialias=False)|value_range(-1,1)",
            ),
            "Give another with --image",
        ),
        (
            (
                TINY,
                "{}",
                "--to=transformers",
                IMAGES[0],
                *SIGLIP,
                "--image_size=64",
            ),
            "does not take images of 64 x 64",
        ),
        (
            (
                FOLDER,
                "{}",
                "--to=transformers",
                SIGLIP[0],
                f"--tokenizer={DATA / 'loss_golden.npz'}",
            ),
            "is not a SentencePiece model",
        ),
    ],
)
def test_what_is_wrong_is_one_line(command, tmp_path, arguments, match):
  target = tmp_path / "new"
  given = [str(a).replace("{}", str(target)) for a in arguments]
  message = command.refuse(MODULE, *given)
  assert match in message
  assert not list(tmp_path.iterdir())


def test_what_would_not_work_is_not_written(command, tmp_path):
  """Another length, pieces without rows, another's tokenizer, no numbers."""
  target = tmp_path / "x"
  arguments = (MODULE, TINY, target, "--to=transformers", *IMAGES)
  longer = SIGLIP[0].replace("16", "99")
  said = command.refuse(*arguments, longer, SIGLIP[1])
  assert "to the 16 positions of the model; got max_len=99" in said
  said = command.refuse(
      *arguments, SIGLIP[0], f"--tokenizer={DATA / 'gemma.model'}"
  )
  assert "of at most 256 pieces; " in said and "gemma.model has 700" in said
  params = big_vision.read(TINY)
  params["img"]["embedding"]["bias"][3] = np.nan
  path = tmp_path / "nan.npz"
  big_vision.write(path, params)
  said = command.refuse(MODULE, path, target, "--to=big_vision")
  assert "weights must be finite; img/embedding/bias has numbers" in said
  assert not target.exists()


def test_a_folder_without_a_tokenizer_says_so(command, tmp_path):
  arguments = (FOLDER, tmp_path / "x", "--to=transformers")
  assert "without a tokenizer: give --tok" in command.refuse(MODULE, *arguments)


def test_a_run_with_another_tokenizer_is_not_exported(
    command, trained, tmp_path
):
  run = shutil.copytree(trained, tmp_path / "run")
  other = Tokenizer(DATA / "small.model")
  (run / "tokenizer.model").write_bytes(other.read_bytes())
  message = command.refuse(MODULE, run, tmp_path / "x", "--to=transformers")
  assert "is not the tokenizer the weights were trained with" in message
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("to", ["big_vision", "transformers"])
def test_a_run_that_is_not_whole_is_not_converted(
    command, trained, tmp_path, to
):
  run = shutil.copytree(trained, tmp_path / "run")
  for step in workdirs.kept_steps(run):
    specs.forget_model(run, step)
  config = json.loads((run / "config.json").read_text())
  for changed, match in (
      (config | {"text_len": 9}, "is not of the model in its config.json"),
      (
          config | {"model": config["model"] | {"embedded": True}},
          "holds no tower.npz, the image tower",
      ),
      ({}, "is not the config of a run"),
  ):
    (run / "config.json").write_text(json.dumps(changed))
    message = command.refuse(MODULE, run, tmp_path / "x", f"--to={to}")
    assert match in message and not (tmp_path / "x").exists()


def test_an_earlier_step_of_a_run_is_converted_and_named(
    command, trained, tmp_path
):
  npz, to = tmp_path / "x.npz", "--to=big_vision"
  step = workdirs.kept_steps(trained)[0]
  done = command.run(MODULE, trained, npz, to, f"--step={step}", status=0)
  assert done.out == f"{npz}: big_vision, from {trained} at step {step}\n"
  assert same(big_vision.read(npz), workdirs.read_params(trained, step)[0])
  before = npz.read_bytes()
  for source, match in ((trained, "of step 7 in"), (TINY, "npz is a file")):
    said = command.refuse(MODULE, source, npz, to, "--step=7", "--force")
    assert match in said and npz.read_bytes() == before
