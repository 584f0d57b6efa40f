"""Weights that live elsewhere: copied as far as needed, and cleaned up."""

import fsspec
import pytest
import small_towers
from small_towers import assert_trees_equal
from small_towers import read
from small_towers import shapes

from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.errors import UserError
from siglip_jax.weights import big_vision
from siglip_jax.weights import places
from siglip_jax.weights import workdirs


@pytest.fixture(scope="module")
def params():
  return small_towers.params()


@pytest.fixture(scope="module")
def npz(params, tmp_path_factory):
  path = tmp_path_factory.mktemp("npz") / "model.npz"
  big_vision.write(path, params)
  return path


def test_a_local_path_is_the_file_itself(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "a.npz").write_bytes(b"here")
  with places.local("~/a.npz") as path:
    assert path == tmp_path / "a.npz"
  assert path.read_bytes() == b"here"


def test_files_elsewhere_are_copied_and_left_no_trace(npz, params, tmp_path):
  fs = fsspec.filesystem("memory")
  fs.put(str(npz), "/bucket/model.npz")
  with places.local("memory://bucket/model.npz") as path:
    assert path.is_file()
  assert not path.exists()
  found = read("memory://bucket/model.npz", shapes())
  assert_trees_equal(tree.unflatten(found.arrays), params["img"])


def test_of_a_folder_only_the_files_of_weights_are_copied():
  fs = fsspec.filesystem("memory")
  needed = {"config.json", "model.safetensors", "spiece.model", "tower.npz"}
  for name in (*needed, "flax_model.msgpack", "README.md", "onnx/model.json"):
    fs.pipe_file(f"/hub/folder/{name}", name.encode())
  with places.local("memory://hub/folder") as path:
    assert {p.name: p.read_text() for p in path.iterdir()} == {
        name: name for name in needed
    }


def test_of_a_workdir_elsewhere_only_the_newest_parameters_are_copied(trained):
  fs = fsspec.filesystem("memory")
  fs.put(str(trained), "/runs/trained", recursive=True)
  with places.local("memory://runs/trained") as path:
    steps = [p.name for p in (path / "checkpoints").iterdir()]
    parts = {p.name for p in (path / "checkpoints" / "12").iterdir()}
  assert steps == ["12"] and parts == {"about", "params", "spec"}
  assert_trees_equal(
      weights_lib.read("memory://runs/trained").params,
      weights_lib.read(str(trained)).params,
  )


def test_what_is_not_there_is_left_to_the_reader_to_name():
  with places.local("memory://hub/nowhere.npz") as path:
    assert path.name == "nowhere.npz" and not path.exists()


def test_a_workdir_elsewhere_without_a_checkpoint_is_named():
  fs = fsspec.filesystem("memory")
  fs.pipe_file("/runs/begun/config.json", b"{}")
  fs.makedirs("/runs/begun/checkpoints/3.orbax-checkpoint-tmp")
  with places.local("memory://runs/begun") as place:
    assert [p.name for p in place.iterdir()] == ["config.json"]
    with pytest.raises(UserError, match="There is no checkpoint in .*: train"):
      workdirs.read_params(place)


def test_of_a_workdir_elsewhere_the_step_that_is_asked_for_is_copied(trained):
  fs = fsspec.filesystem("memory")
  fs.put(str(trained), "/runs/steps", recursive=True)
  step, last = workdirs.kept_steps(trained)
  with places.local("memory://runs/steps", step) as path:
    assert [p.name for p in (path / "checkpoints").iterdir()] == [str(step)]
  found = weights_lib.read("memory://runs/steps", step=step)
  assert found.step == step
  assert_trees_equal(found.params, weights_lib.read(trained, step=step).params)
  match = f"of step 7 in memory://.*steps/checkpoints, .* {step}, {last}. Give"
  with pytest.raises(UserError, match=match):
    weights_lib.read("memory://runs/steps", step=7)


def test_of_many_steps_the_latest_are_listed():
  error = places.not_kept(5, range(10, 310, 10), "run/checkpoints")
  assert "which keeps 18 older ones, 190, 200, 210" in str(error)
  assert "290, 300. Give one of these" in str(error)
