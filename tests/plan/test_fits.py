"""The large configs fit on their slices, by the real TPU compiler."""

import config_files
import pytest

from siglip_jax.plan import estimate

SLICES = {
    "b16_4k": "v4:2x2x1",
    "l256_lit": "v4:2x2x1",
    "l256_lit:text_len=64": "v4:2x2x1",
    "b8_lit": "v4:2x2x1",
    "g14_lit": "v4:2x2x1",
    "clip_b16": "v3:4x8",
}


@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", SLICES)
def test_fits(slices, name):
  where = slices(SLICES[name])
  name, _, arg = name.partition(":")
  _, config = config_files.get(name, arg or None)
  with config.unlocked():
    # Unrolled blocks need no more memory and take minutes to compile.
    config.model.scan = True
  plan = estimate.compile_plan(*estimate.lower(config, where), where)
  assert plan.fits, estimate.advice(plan)
  assert plan.peak_hbm_bytes < plan.hbm_bytes
  assert plan.global_batch == config.batch_size
