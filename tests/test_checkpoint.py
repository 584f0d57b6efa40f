"""Faults of the files of a checkpoint: seen, said, and nothing lost."""

import dataclasses
import resource
import shutil

import fakes
import jax
import numpy as np
import pytest
import small_checkpoints
from small_checkpoints import SPEC
from small_checkpoints import data_files
from small_checkpoints import flip
from small_checkpoints import state

from siglip_jax import checkpoint
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

SHAPES = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state(0),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("saved")
  small_checkpoints.save(workdir)
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "copy")


def restored(workdir, **options):
  """The step restored, after all of it was found to be what was saved."""
  checkpoints = checkpoint.Checkpoints(workdir, **options)
  found = checkpoints.restore(SHAPES)
  checkpoints.set_aside()
  checkpoints.close()
  step = int(found.state.step)
  jax.tree.map(np.testing.assert_array_equal, found.state, state(step))
  assert found.spec == SPEC and found.examples in (8 * step, None)
  return step


def test_the_newest_is_restored_as_it_was(copy):
  assert restored(copy) == 2
  assert not list(copy.glob("damaged_*"))


@pytest.mark.parametrize(
    "damage",
    [
        "a flipped bit",
        "a shard cut short",
        "a shard missing",
        "an empty item",
        "metadata that are not JSON",
        "another spec",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_kept(copy, damage, caplog):
  newest = copy / "checkpoints" / "2"
  largest = data_files(copy)[-1]
  if damage == "a flipped bit":
    flip(largest)
  elif damage == "a shard cut short":
    largest.write_bytes(largest.read_bytes()[:1000])
  elif damage == "a shard missing":
    largest.unlink()
  elif damage == "an empty item":
    shutil.rmtree(newest / "rest")
    (newest / "rest").mkdir()
  elif damage == "metadata that are not JSON":
    (newest / "params" / "_METADATA").write_text('{"tree_meta')
  else:
    path = newest / "spec" / "metadata"
    path.write_text(path.read_text().replace("abc", "abd"))
  assert restored(copy) == 1
  assert "Checkpoint 2 is unreadable: " in caplog.text
  assert (copy / "damaged_2" / "params").is_dir()
  assert not newest.exists()
  assert restored(copy) == 1


def test_half_written_ones_are_no_steps_and_go_with_the_next_run(copy):
  half = copy / "checkpoints" / "3.orbax-checkpoint-tmp"
  shutil.copytree(copy / "checkpoints" / "2" / "params", half / "params")
  assert restored(copy) == 2
  assert half.is_dir()  # perhaps of a run that is still writing
  checkpoints = checkpoint.Checkpoints(copy)
  checkpoints.save(4, state(4), SPEC, examples=32)
  checkpoints.close()
  assert not half.exists()


def test_checkpoints_without_checksums_are_read(copy):
  shutil.rmtree(copy / "checkpoints" / "1" / "about")
  shutil.rmtree(copy / "checkpoints" / "2")
  assert restored(copy) == 1


def test_with_none_whole_all_are_kept(copy):
  for step in (1, 2):
    shutil.rmtree(copy / "checkpoints" / str(step) / "rest")
  with pytest.raises(UserError, match=r"No checkpoint .*\(step 2: .*step 1: "):
    restored(copy)
  assert (copy / "checkpoints" / "2" / "params").is_dir()


def test_a_full_disk_ends_the_run_and_the_last_one_is_whole(copy):
  checkpoints = checkpoint.Checkpoints(copy)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
  try:
    with pytest.raises(UserError) as e:
      checkpoints.save(3, state(3), SPEC, examples=24)
      checkpoints.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert "The disk is full" in str(e.value)
  assert "checkpoints/2 is whole" in str(e.value)
  assert restored(copy) == 2


class Alone(fakes.BoardPeers):
  """The other process never comes: it waits inside Orbax."""

  def gather(self, topic, value, *, seconds):
    raise TryAgain("Worker 1 gave no sign.")


def test_one_that_a_single_process_cannot_read_is_moved_and_all_end(copy):
  flip(data_files(copy)[-1])
  with pytest.raises(TryAgain, match="2 could not be read by all .*checksum"):
    restored(copy, peers=Alone({}, 0, 2))
  assert (copy / "damaged_2").is_dir()
  assert restored(copy) == 1


def test_one_that_only_another_process_cannot_read_is_passed_over(copy):
  class Other(fakes.BoardPeers):

    def gather(self, topic, value, *, seconds):
      return [value, "cut short" if topic == "restored 2" else value]

  assert restored(copy, peers=Other({}, 0, 2)) == 1
  assert (copy / "damaged_2").is_dir()


def files(workdir):
  """The bytes of every file."""
  return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_reading_changes_nothing_whatever_is_found(copy):
  flip(data_files(copy)[-1])
  half = copy / "checkpoints" / "3.orbax-checkpoint-tmp"
  half.mkdir()
  before = files(copy)
  checkpoints = checkpoint.Checkpoints(copy)
  assert checkpoints.steps() == [2, 1]
  assert int(checkpoints.restore(SHAPES).state.step) == 1
  assert not checkpoints.misfits(SHAPES)
  checkpoints.close()
  assert files(copy) == before and half.is_dir()


def test_a_workdir_without_checkpoints_stays_without(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.steps() == [] and checkpoints.restore(SHAPES) is None
  assert checkpoints.misfits(SHAPES) == []
  checkpoints.set_aside()
  checkpoints.close()
  assert not list(tmp_path.iterdir())


def test_arrays_that_do_not_fit_are_named(copy):
  wanted = state(0)
  wanted.params["img"] = {"kernel": jax.numpy.zeros((64, 8))}
  wanted.params["txt"] = {"bias": jax.numpy.zeros(3)}
  checkpoints = checkpoint.Checkpoints(copy)
  kernel = (
      "img/kernel is float32[64, 16] in the checkpoint and float32[64, 8] here"
  )
  bias = "txt/bias is missing in the checkpoint and float32[3] here"
  assert checkpoints.misfits(wanted) == [kernel, bias]
  adam = dataclasses.replace(wanted, params=SHAPES.params, opt_state=())
  assert checkpoints.misfits(adam) == [
      "opt_state/0 is float32[3] in the checkpoint and missing here"
  ]
  assert checkpoints.misfits(adam, 1, params_only=True) == []
  # Without metadata that can be read, an older one says it.
  (copy / "checkpoints" / "2" / "rest" / "_METADATA").write_text("{")
  assert checkpoints.misfits(wanted) == [kernel, bias]


def test_the_parameters_of_any_step_are_read_alone(copy):
  shutil.rmtree(copy / "checkpoints" / "1" / "rest")
  checkpoints = checkpoint.Checkpoints(copy, read_only=True)
  params, spec = checkpoints.restore_params(SHAPES.params, 1)
  jax.tree.map(np.testing.assert_array_equal, params, state(1).params)
  assert spec == SPEC
  with pytest.raises(UserError, match=r"can be read \(step 1: "):
    checkpoints.restore(SHAPES, 1)


def test_the_newest_every_nth_and_the_best_are_kept(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_every=4)
  best = {1: None, 2: 1, 3: 2, 4: 2, 5: 2, 6: 5}
  kept = {}
  for step, step_of_best in best.items():
    checkpoints.save(step, state(0), SPEC, examples=0, best=step_of_best)
    checkpoints.wait()
    kept[step] = checkpoints.steps()
  checkpoints.close()
  assert kept == {
      1: [1],
      2: [2, 1],
      3: [3, 2],
      4: [4, 2],
      5: [5, 4, 2],
      6: [6, 5, 4],
  }
