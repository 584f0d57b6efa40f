"""The training data of a config, and how they are read."""

import fakes
import ml_collections
import pytest

from siglip_jax.config import check as config_check
from siglip_jax.config import sources
from siglip_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
  folder = fakes.captioned_folder(tmp_path / "images")
  return fakes.tiny(folder, tmp_path / "t.model")


def test_the_source_is_the_one_that_config_data_names(config):
  whole = sources.train_source(config)
  config.data.split = "validation"
  part = sources.train_source(config)
  assert (len(whole), len(part)) == (47, 1)
  assert part.key(0).startswith(config.data.path)
  config.data.path += "/gone"
  with pytest.raises(UserError, match="no folder .*images/gone"):
    sources.train_source(config)


def test_how_data_are_read_does_not_say_which(config):
  before = sources.source_arguments(config)
  assert sorted(before) == ["path", "split"]
  config_check.fill(config)  # with how they are read
  before["order"] = None  # the block's size names the data, too
  assert sources.source_arguments(config) == before
  assert sources.loader_options(config) == dict(
      num_threads=2, num_workers=0, cache_mb=0, prefetch=4, order=None
  )


def test_a_config_may_leave_out_how_data_are_read():
  config = ml_collections.ConfigDict({"data": dict(path="x", num_workers=3)})
  assert sources.loader_options(config) == {"num_workers": 3}
  assert sources.source_arguments(config) == {"path": "x"}
