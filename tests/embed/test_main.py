"""Embeddings made once: whole or not at all, and as good as the tower."""

import json
import re
import shutil

import fakes
import numpy as np
import pytest

import siglip_jax
from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.data import folders
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.errors import UserError

# A text tower learns beside the tower of `trained`, which is locked.
LIT = """
  if arg.embeddings:
    for key in ("path", "pp"):
      del c.data[key]
    pp = "pick_crop|" + text + '|keep("image","text")'
    c.data.update(embeddings=arg.embeddings, pp=pp)
    c.model.embedded = True
    c.evals = dict(colors=dict(
        c.evals.colors, embeddings=arg.eval_embeddings, split="train"
    ))
  else:
    c.optim.schedule.insert(0, ("img/.*", None))
    c.init = dict(img=dict(path="TRAINED"))
  return c
"""


@pytest.fixture(scope="module")
def lit(place, trained):
  """A config of the tower locked, without augmentation: online or cached."""
  text = (place / "tiny.py").read_text()
  text = text.replace("decode|affine()|resize", "decode|resize")
  text = text.replace(
      "def get_config(arg=None):\n",
      "from siglip_jax.config import parse_arg\n\ndef get_config(arg=None):\n"
      '  arg = parse_arg(arg, embeddings="", eval_embeddings="")\n',
  )
  text = text.replace("\n  return c\n", LIT.replace("TRAINED", str(trained)))
  (place / "lit.py").write_text(text)
  return place / "lit.py"


@pytest.fixture(scope="module")
def embed(command, place, lit):
  """Runs `embed` of lit.py into a folder of this name."""

  def embed(name, *flags, config=lit, status=0, killed_at=None):
    out = place / name
    line = ["siglip_jax.embed", f"--config={config}", f"--out={out}"]
    if killed_at:
      line = ["killed", killed_at, *line]
    done = command.run(*line, "--shard_size=10", *flags, status=status)
    return out, done

  return embed


@pytest.fixture(scope="module")
def embedded(embed):
  """The folder that nothing disturbed, which others must not change."""
  return embed("embedded")[0]


@pytest.fixture(scope="module")
def cached(command, place, lit, embedded):
  """The workdir of a run on it."""
  return train(
      command, place / "cached", f"{lit}:embeddings={embedded}", embedded
  )


def train(command, workdir, config, evaluated=None, status=0):
  if evaluated:
    config += f",eval_embeddings={evaluated}"
  done = command.run(
      "siglip_jax.main",
      f"--config={config}",
      f"--workdir={workdir}",
      status=status,
  )
  assert "Traceback" not in done.err
  return workdir


def refused(command, place, lit, folder, *flags):
  """The message of a run on embeddings that must not begin."""
  return command.refuse(
      "siglip_jax.main",
      f"--config={lit}:embeddings={folder},eval_embeddings={folder}",
      f"--workdir={place / 'refused'}",
      *flags,
  )


def logged(workdir, name):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [x[name] for x in map(json.loads, lines) if name in x]


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_embeddings_are_what_the_tower_makes_of_the_images(
    place, trained, embedded
):
  found = Embeddings(embedded, "train")
  images = folders.folder_source(place / "images", "train")
  names = [images.key(i) for i in range(len(images))]
  expected = siglip_jax.load(trained).encode_image(names)
  np.testing.assert_allclose(found.every(), expected, atol=1e-6)
  assert [found[i]["text"] for i in range(len(found))] == [
      images[i]["text"] for i in range(len(images))
  ]
  assert found.key(11) == f"{embedded}[11]"
  assert found.manifest["counts"] == [10, 10, 10, 10, 7]


def test_losses_on_embeddings_are_those_of_the_locked_tower(
    command, place, lit, cached
):
  online = train(command, place / "online", str(lit))
  for name in ("train/loss", "train/grad_norm"):
    found = logged(cached, name)
    assert len(set(found)) == 12
    np.testing.assert_allclose(found, logged(online, name), rtol=1e-5)
  online, cached = (
      tree.flatten(siglip_jax.load(w).params) for w in (online, cached)
  )
  assert online.keys() == cached.keys()
  for name in (n for n in online if n.startswith("img/")):
    np.testing.assert_array_equal(cached[name], online[name])


def test_a_run_on_embeddings_is_evaluated_and_joins_its_tower(
    command, place, trained, cached
):
  assert len(logged(cached, "zeroshot/colors/top1")) == 3
  image = place / "images" / "000.png"
  z = siglip_jax.load(cached).encode_image([image])
  np.testing.assert_array_equal(
      z, siglip_jax.load(trained).encode_image([image])
  )
  copy = place / "other_tower"
  shutil.copytree(cached, copy)
  with np.load(copy / "tower.npz") as f:
    arrays = {k: f[k] + (k.endswith("probe")) for k in f}
  np.savez(copy / "tower.npz", **arrays)
  message = command.refuse(
      "siglip_jax.classify", f"--model={copy}", image, "--labels=a,b"
  )
  assert "not the image tower whose embeddings" in message
  with pytest.raises(UserError, match="not the image tower whose embeddings"):
    weights_lib.read(str(copy))
  assert "img" in weights_lib.read(str(cached)).params
  (copy / "tower.npz").unlink()
  message = command.refuse(
      "siglip_jax.classify", f"--model={copy}", image, "--labels=a,b"
  )
  assert "tower.npz" in message


def test_a_killed_embed_goes_on_and_shows_nothing_unfinished(
    command, place, lit, embed, embedded
):
  folder, _ = embed("killed", killed_at=3, status=-9)
  shards = sorted(folder.glob("*.array_record"))
  assert [s.name[11:16] for s in shards] == ["00000", "00001"]
  assert list(folder.glob("*.part")) and not (folder / "manifest.json").exists()
  before = [s.stat().st_mtime_ns for s in shards]
  assert "not finished" in refused(command, place, lit, folder)
  _, done = embed("killed")
  assert "00001-of" not in done.out and "00002-of" in done.out
  assert [s.stat().st_mtime_ns for s in shards] == before
  assert contents(folder) == contents(embedded)


def test_a_finished_folder_is_left_alone(embed, embedded):
  before = contents(embedded)
  _, done = embed("embedded")
  assert contents(embedded) == before and "is written" not in done.out


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--crops=1"], "begun with made_with|begun with crops = 0"),
        (["--split=validation"], "begun with split = 'train'; .* 'validation'"),
        (["--dtype=bfloat16"], "begun with dtype = 'float32'"),
        (["--shard_size=11"], "begun with shard_size = 10; now it is 11"),
        (["--config.seed=1"], "begun with seed = 0"),
        (["--model=CACHED/other"], "There is no .*other: expected a workdir"),
        (["--step=8"], "--step is of the run that --model names; got --step=8"),
        (["--model=TRAINED", "--step=7"], "no checkpoint of step 7 in "),
        (["--crops=2"], "needs something random in config.data.pp"),
        (["--crops=-1"], "--crops must be a whole number from 0 up"),
        (["--batch_size=0"], "--batch_size must be a whole number from 1"),
        (["--dtype=int8"], "dtype=int8: value should be one of"),
        (["--split=tset"], "all, train or validation; got 'tset'"),
        (["--out="], "Both --config=.* and --out=DIR are needed"),
        (["--out=PLACE/images"], "images holds 000.png and no started"),
        (["--out=PLACE/tiny.py"], "must be a folder .*File exists"),
        (["--config=PLACE/nope.py"], "can be read: .*nope.py"),
        (["--config=PLACE/tiny.py"], "Embeddings need a trained image tower"),
        (["--model=PLACE/images"], "images holds no weights that are known"),
        (
            ["--config.model.image.num_heads=4", "--model=TRAINED"],
            "tower_sizes = .*'num_heads': 2.*'num_heads': 4",
        ),
        (["--config.model.image.width=64"], r"\(.*32.*\) .*\(.*64.*\)|32.*64"),
        (
            ["--config.preprocess.image=decode|resize(16)|value_range(0,1)"],
            "different image preprocessing.*value_range",
        ),
        (["--config=LIT:embeddings=x,eval_embeddings=x"], "leave `embeddings`"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    command, place, lit, trained, embedded, flags, match
):
  names = {"PLACE": place, "LIT": lit, "TRAINED": trained, "CACHED": embedded}
  for name, path in names.items():
    flags = [f.replace(name, str(path)) for f in flags]
  before = contents(embedded)
  message = command.refuse(
      "siglip_jax.embed",
      f"--config={lit}",
      f"--out={embedded}",
      "--shard_size=10",
      *flags,
  )
  assert re.search(match, message), message
  assert contents(embedded) == before


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--config.model.image.num_heads=4"], "made with tower_sizes"),
        (["--config.model.image.patch=4"], "made with tower_sizes"),
        (
            ["--config.preprocess.image=decode|resize(16)|value_range(0,1)"],
            "made with image = 'decode.*value_range.-1,1",
        ),
        (["--config.data.split=validation"], "of the split 'validation'; it"),
        (["--config.data.embeddings=PLACE/gone"], "no folder of embeddings"),
        (["--config.data.embeddings=PLACE"], "holds no manifest.json"),
        (["--config.data.embeddings="], "must name a folder of `embeddings`"),
        (["--config.model.embedded=False"], "config.data must name a folder"),
        (["--config.data.pp=PP"], r"'image' float32 of .*\(32,\).*\(1, 32\)"),
    ],
)
def test_a_run_refuses_embeddings_that_do_not_fit(
    command, place, lit, embedded, flags, match
):
  pp = f'tokenize(max_len=8, model="{place}/tokenizer.model")'
  flags = [
      f.replace("PLACE", str(place)).replace("PP", f"lower|{pp}") for f in flags
  ]
  message = refused(command, place, lit, embedded, *flags)
  assert re.search(match, message), message
  assert not list(place.glob("refused/checkpoints/*"))


def test_an_evaluation_by_another_tower_is_refused(
    command, place, lit, embedded, tmp_path
):
  other = tmp_path / "other"
  shutil.copytree(embedded, other)
  manifest = json.loads((other / "manifest.json").read_text())
  manifest["tower_digest"] = "0" * 64
  (other / "manifest.json").write_text(json.dumps(manifest))
  flag = f"--config.evals.colors.embeddings={other}"
  message = refused(command, place, lit, embedded, flag)
  assert "another image tower than the embeddings trained on" in message


def test_crops_differ_and_are_the_same_again(embed, place, trained):
  text = (place / "tiny.py").read_text()
  config = place / "crops.py"
  config.write_text(text.replace("affine()", "color_jitter(0.5)"))
  flags = ["--crops=3", f"--model={trained}"]
  first, _ = embed("crops", *flags, config=config)
  whole = contents(first)
  (first / "manifest.json").rename(first / "started.json")
  for shard in sorted(first.glob("*.array_record"))[::2]:
    shard.unlink()
  embed("crops", *flags, config=config)
  assert contents(first) == whole
  z = Embeddings(first)[20]["image"]
  assert z.shape == (3, 32) and len(np.unique(z.round(4), axis=0)) == 3
  assert "color_jitter" in Embeddings(first).manifest["made_with"]


def test_unreadable_images_are_skipped_counted_and_named(
    command, embed, place, lit
):
  images = fakes.captioned_folder(place / "bad_images")
  source = folders.folder_source(images, "train")
  for i in (3, 30):
    with open(source.key(i), "wb") as f:
      f.write(b"no image")
  path = f"--config.data.path={images}"
  few = "--config.data.max_replaced_share=0.0"
  folder, done = embed("few_skipped", path, few, status=2)
  assert "1 of 10 examples could not be read" in done.err
  assert not list(folder.glob("*.array_record"))
  folder, done = embed("skipped", path)
  assert f"Skipped {source.key(3)}: " in done.err and "2 skipped" in done.out
  found = Embeddings(folder)
  assert found.manifest["skipped_keys"] == [source.key(3), source.key(30)]
  assert found.manifest["counts"] == [9, 10, 10, 9, 7] and len(found) == 45
  assert found.key(3) == f"{folder}[4]"
  message = refused(command, place, lit, folder)
  assert "Evaluation needs every image once" in message
