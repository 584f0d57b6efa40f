"""What a run needs on a slice: the compiler's word, and advice."""

from plans import GIB
from plans import TINY
from plans import plan
import pytest
import toy

from siglip_jax import sharding
from siglip_jax.plan import estimate
from siglip_jax.run import Run


def flops(locked=False, **model):
  """Operations of a step of `toy.config`, changed in config.model."""
  config = toy.config()
  config.model.update(model)
  if locked:
    config.optim.schedule = [("img/.*", None), *config.optim.schedule]
  return estimate.model_flops(Run(config, sharding.make_mesh()))


def test_the_flops_of_a_text_tower_and_the_loss_are_their_matmuls():
  batch, length, width, mlp = 32, 8, 64, 128
  keys_and_values = 2 * length * width**2
  scores_and_sum = 2 * length * width
  # Of the last block, here the only one, the pooled token alone is computed.
  query_and_out, head = 2 * width**2, width**2
  block = keys_and_values + scores_and_sum + query_and_out + 2 * width * mlp
  logits = batch**2 * width
  assert flops(embedded=True) == 3 * 2 * (batch * (block + head) + logits)


def test_a_locked_tower_costs_its_forward_pass_and_a_stored_one_nothing():
  learns, locked, stored = flops(), flops(locked=True), flops(embedded=True)
  forward = locked - stored
  assert forward > 0 and learns - stored == 3 * forward


def test_what_is_computed_twice_is_counted_once():
  assert flops(remat="full") == flops()
  assert flops(remat="full", scan=True) == flops(scan=True)


def test_every_block_of_a_scan_is_counted():
  images = [dict(toy.config().model.image, depth=depth) for depth in (2, 4)]
  two, four = (flops(image=image) for image in images)
  scanned = [flops(image=image, scan=True) for image in images]
  assert scanned[1] - scanned[0] == four - two > 0


def test_advice_names_the_cheapest_change_first():
  tight = plan(fits=False, peak_hbm_bytes=40 * GIB)
  found = list(estimate.advice(tight))
  assert "microbatch" in found[0] and "2048" in found[0]
  assert 'remat="full"' in found[1]
  big = plan(
      fits=False,
      remat="full",
      microbatch=4,
      parts=dict(parameters=8 * GIB, optimizer=16 * GIB),
  )
  assert "fsdp=4" in list(estimate.advice(big))[0]


@pytest.mark.tpu_compile
def test_what_the_compiler_cannot_place_does_not_fit(slices):
  space: dict = {}
  exec(TINY, space)
  config = space["get_config"]()
  with config.unlocked():
    config.batch_size, config.microbatch = 2**21, 0
    config.model.remat = "none"
  where = slices("v4:2x2x1")
  found = estimate.compile_plan(*estimate.lower(config, where), where)
  assert not found.fits and found.step_seconds_estimate is None
  assert found.peak_hbm_bytes > 2 * found.hbm_bytes
  assert "microbatch" in estimate.advice(found)[0]
