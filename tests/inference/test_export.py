"""Exported towers, run where there is no siglip_jax."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import siglip_jax
from siglip_jax.errors import UserError

# Runs each tower on two sizes of batch.
ALONE = """
import json, sys
sys.modules["siglip_jax"] = None  # importing it raises ImportError
import jax, numpy as np
try:
  import siglip_jax
except ImportError:
  pass
else:
  raise SystemExit("siglip_jax is there")
folder = sys.argv[1]
found = {}
for name in ("image", "text"):
  path = f"{folder}/{name}.stablehlo"
  tower = jax.export.deserialize(open(path, "rb").read())
  weights = dict(np.load(path + ".npz"))
  inputs = np.load(f"{folder}/{name}_inputs.npy")
  for n in (1, len(inputs)):
    found[f"{name}_{n}"] = np.asarray(tower.call(weights, inputs[:n]))
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.fixture(scope="module")
def model(trained):
  return siglip_jax.load(trained)


def test_towers_give_the_same_embeddings_without_the_package(model, tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
  ids = rng.integers(0, 300, (5, 8), np.int32)
  np.save(tmp_path / "image_inputs.npy", images)
  np.save(tmp_path / "text_inputs.npy", ids)
  model.export_image(tmp_path / "image.stablehlo")
  model.export_text(tmp_path / "text.stablehlo")
  done = subprocess.run(
      [sys.executable, "-c", ALONE, str(tmp_path)],
      capture_output=True,
      text=True,
      check=False,
      cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  found = np.load(tmp_path / "found.npz")
  for name, expected in (
      ("image", model.encode_image(images)),
      ("text", model.encode_text(ids)),
  ):
    for n in (1, len(expected)):
      np.testing.assert_allclose(found[f"{name}_{n}"], expected[:n], atol=1e-5)
  about = json.loads((tmp_path / "image.stablehlo.json").read_text())
  assert about["preprocessing"] == model.spec["image"]
  assert about["input"] == {"shape": ["batch", 16, 16, 3], "dtype": "uint8"}
  t, b = (float(jax.device_get(model.params[k])[0]) for k in "tb")
  assert about["temperature"] == pytest.approx(np.exp(t))
  assert about["bias"] == pytest.approx(b)
  assert about["step"] == 12


def test_a_path_that_cannot_be_written_is_named(model, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written to .*file/text"):
    model.export_text(tmp_path / "file" / "text")
