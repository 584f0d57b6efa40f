"""Eight fake CPU devices, warnings and silent broadcasting as errors."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is what tests spend their time on: code runs once, unpolished.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + " --xla_llvm_disable_expensive_passes=true"
)

import clouds
import commands
import fakes
import jax
from jaxtyping import install_import_hook
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("siglip_jax", "typechecker.check")


@pytest.fixture(scope="session")
def mesh():
  """All eight devices as data=4, fsdp=2."""
  return jax.make_mesh(
      (4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )


@pytest.fixture(scope="session")
def command():
  """Runs command lines in forks."""
  command = commands.Commands()
  yield command
  command.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
  """A folder of images, tokenizer.model and tiny.py, a config for them."""
  from siglip_jax.data import folders
  from siglip_jax.data import tokenizer

  place = tmp_path_factory.mktemp("place")
  folder = fakes.captioned_folder(place / "images")
  source = folders.folder_source(folder)
  texts = (source[i]["text"] for i in range(len(source)))
  tokenizer.train(texts, place / "tokenizer.model", vocab_size=400)
  config = fakes.tiny_config(folder, place / "tokenizer.model")
  (place / "tiny.py").write_text(config)
  return place


@pytest.fixture(scope="session")
def trained(command, place) -> Path:
  """The workdir of a whole run of tiny.py that nothing disturbed."""
  workdir = place / "trained"
  done = command.run(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
      status=0,
  )
  (place / "trained.out").write_text(done.out)
  return workdir


@pytest.fixture(scope="session")
def slices():
  """`topology.get`, where the TPU compiler is."""
  reason = "no TPU compiler: pip install -e '.[plan]', on Linux x86-64 alone"
  pytest.importorskip("libtpu", reason=reason)
  from siglip_jax.plan import topology  # after the import hook

  return topology.get


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
  """A git checkout with the scripts of tpu/."""
  return clouds.make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def empty_cloud(checkout, tmp_path) -> clouds.Cloud:
  """No TPU slice yet."""
  return clouds.make_cloud(checkout, tmp_path)


@pytest.fixture
def cloud(empty_cloud) -> clouds.Cloud:
  """A TPU slice of two workers that is set up."""
  empty_cloud.run("create")
  empty_cloud.run("setup")
  empty_cloud.calls(forget=True)
  return empty_cloud
