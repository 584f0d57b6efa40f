"""Eight fake CPU devices, warnings and silent broadcasting as errors."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

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
