"""Parameters out of the checkpoints of a workdir."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import small_checkpoints
from small_checkpoints import SPEC
from small_checkpoints import data_files
from small_checkpoints import flip
from small_checkpoints import state

from siglip_jax import checkpoint
from siglip_jax.errors import UserError
from siglip_jax.weights import checksums
from siglip_jax.weights import workdirs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("saved")
  small_checkpoints.save(workdir)
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "copy")


def _read_step(workdir):
  params, spec, step = workdirs.read_params(workdir)
  assert spec == SPEC and _is_of(params, step)
  return step


def _is_of(params, step):
  wanted = state(step).params["img"]["kernel"]
  return np.array_equal(params["img"]["kernel"], wanted)


@pytest.mark.parametrize("damage", ["a flipped bit", "another spec"])
def test_who_reads_parameters_alone_passes_it_over_too(copy, damage):
  assert _read_step(copy) == 2
  if damage == "a flipped bit":
    flip(data_files(copy)[-1])
  else:
    path = copy / "checkpoints" / "2" / "spec" / "metadata"
    path.write_text(path.read_text().replace("abc", "abd"))
  assert _read_step(copy) == 1
  assert (copy / "checkpoints" / "2").is_dir()  # it may be another's run


def test_arrays_keep_the_types_they_were_saved_in(tmp_path):
  half = state(1)
  half.params["img"]["kernel"] = half.params["img"]["kernel"].astype("bfloat16")
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, half, SPEC, examples=8)
  checkpoints.close()
  found = workdirs.read_params(tmp_path)[0]["img"]["kernel"]
  assert isinstance(found, np.ndarray) and found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, half.params["img"]["kernel"])


def test_with_none_whole_each_is_named_with_its_reason(copy, tmp_path):
  shutil.rmtree(copy / "checkpoints" / "1" / "params")
  (copy / "checkpoints" / "2" / "spec" / "metadata").write_text("{")
  match = r"No checkpoint .* \(step 2: JSONDecodeError: .*; step 1: \w+: "
  with pytest.raises(UserError, match=match):
    workdirs.read_params(copy)
  match = "There is no checkpoint in .*/checkpoints: train first"
  with pytest.raises(UserError, match=match):
    workdirs.read_params(tmp_path)


def test_the_item_that_is_not_what_was_saved_is_named():
  params = {"a": jnp.arange(3.0)}
  about = {
      "params": checksums.of_arrays(params),
      "spec": checksums.of_json(SPEC),
  }
  workdirs.verify({"params": params, "spec": SPEC}, about)
  for items, name in (
      ({"params": {"a": jnp.arange(3)}, "spec": SPEC}, "params"),
      ({"params": params, "spec": SPEC | {"image": "x"}}, "spec"),
  ):
    with pytest.raises(ValueError, match=f"checksum of '{name}' is not"):
      workdirs.verify(items, about)


def test_an_error_is_told_by_its_first_line():
  assert workdirs.first_line(ValueError("\nwhat\n where")) == "what"
  assert workdirs.first_line(ValueError()) == ""
  assert len(workdirs.first_line(OSError("x" * 999))) == 200


def test_a_step_that_is_asked_for_is_the_one_that_is_read(copy):
  assert workdirs.kept_steps(copy) == [1, 2]
  for step in (1, 2):
    params, _, found = workdirs.read_params(copy, step)
    assert found == step and _is_of(params, step)
  match = "no checkpoint of step 3 in .*/checkpoints, which keeps 1, 2. Give"
  with pytest.raises(UserError, match=match):
    workdirs.read_params(copy, 3)
  flip(data_files(copy)[-1])
  match = r"Checkpoint 2 in .*/checkpoints cannot be read \(step 2: ValueError"
  with pytest.raises(UserError, match=match):
    workdirs.read_params(copy, 2)  # not one instead of another
