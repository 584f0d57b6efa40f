"""Whole runs whose image tower comes from another run and stays locked."""

import json
import re
import shutil

import numpy as np
import pytest

import siglip_jax
from siglip_jax import tree
from siglip_jax.weights import workdirs


@pytest.fixture(scope="module")
def first(place, trained):
  """A copy of a run, which may be moved away."""
  return shutil.copytree(trained, place / "first")


@pytest.fixture(scope="module")
def locked(place, first):
  """tiny.py with the image tower of `first`, locked, in bfloat16."""
  lines = f"""
  c.init = dict(
      img=dict(path="{first}", dont_load=()), t=dict(path="{first}")
  )
  c.optim.frozen_dtype = "bfloat16"
  c.optim.schedule = [
      ("img/.*", None), (".*", dict(decay="cosine", warmup_steps=2))
  ]
  return c
"""
  tiny = (place / "tiny.py").read_text()
  path = place / "locked.py"
  path.write_text(re.sub(r"\n *return c\n", lines, tiny))
  return path


def test_a_locked_run_starts_from_another_and_never_reads_it_again(
    place, command, first, locked
):
  start = tree.flatten(workdirs.read_params(first)[0])
  workdir = place / "lit"
  flags = (f"--config={locked}", f"--workdir={workdir}")
  done = command.run("siglip_jax.main", *flags, status=0)
  assert re.search(r"img .* loaded .* from", done.out)
  assert re.search(r"txt .* at random", done.out)
  now = tree.flatten(workdirs.read_params(workdir)[0])
  for name, value in start.items():
    kept = value.astype(now[name].dtype)
    assert np.array_equal(now[name], kept) == name.startswith("img/"), name
    assert (now[name].dtype == "bfloat16") == name.startswith("img/"), name
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  temperature = [json.loads(line).get("train/temperature") for line in lines][0]
  assert temperature == pytest.approx(float(np.exp(start["t"][0])), rel=1e-5)

  shutil.rmtree(workdir / "checkpoints" / "12")
  shutil.move(first, place / "moved")
  try:
    done = command.run("siglip_jax.main", *flags, status=0)
    assert "Initial values" not in done.out
    again = tree.flatten(workdirs.read_params(workdir)[0])
    for name, value in now.items():
      np.testing.assert_array_equal(value, again[name], err_msg=name)
    loaded = tree.flatten(siglip_jax.load(workdir).params)
    for name, value in now.items():
      np.testing.assert_array_equal(np.float32(value), loaded[name])
  finally:
    shutil.move(place / "moved", first)


@pytest.mark.parametrize(
    "flags, match",
    [
        ("--config.init.img.path=PLACE/gone", "There is no .*gone: expected"),
        ("--config.init.img.path=PLACE/tiny.py", "tiny.py is not an .npz"),
        ("--config.init.img.path=PLACE/images", "no weights that are known"),
        ("--config.init.img.path=nosuch://x", "nosuch://x cannot be reached"),
        ("--config.init.img.dont_load=('a',)", "'a' matches none. Names are"),
        ("--config.init.img.dont_load=3", "dont_load"),
        ("--config.init.im.path=x", "sets no 'im'"),
        ("--config.init.img.pth=x", "sets no 'pth'"),
        ("--config.model.image.depth=2", "weights have 1 blocks, the model 2"),
        ("--config.image_size=0", "image_size must be a positive"),
        ("--config.optim.frozen_dtype=int8", "frozen_dtype must be one of"),
        ("--config.model.image.mlp_dim=32", r"\(64,\) in .* \(32,\) in the mo"),
    ],
)
def test_mistakes_are_one_line(command, place, locked, flags, match):
  message = command.refuse(
      "siglip_jax.main",
      f"--config={locked}",
      f"--workdir={place / 'init_refused'}",
      flags.replace("PLACE", str(place)),
  )
  assert re.search(match, message), message
  assert not list(place.glob("init_refused/checkpoints/*"))
