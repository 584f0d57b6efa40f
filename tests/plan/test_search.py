"""The search for the fastest settings that fit."""

import ml_collections
from plans import GIB
from plans import plan

from siglip_jax.plan import search


def fake_compiler(needs):
  """Plans by a rule: memory of (microbatch, remat, fsdp); slower with remat."""
  slowness = {"none": 1.0, "dots": 1.2, "full": 1.3}

  def make(config):
    fsdp = config.mesh.fsdp
    peak = needs(config.microbatch or 4096, config.model.remat, fsdp)
    slices = 4096 / (config.microbatch or 4096)
    seconds = slowness[config.model.remat] + slices / 1000
    return plan(
        microbatch=config.microbatch,
        remat=config.model.remat,
        mesh=dict(data=4 // fsdp, fsdp=fsdp, tensor=1),
        fits=peak <= 30 * GIB,
        peak_hbm_bytes=peak,
        step_seconds_estimate=seconds if peak <= 30 * GIB else None,
    )

  return make


def small_config():
  config = ml_collections.ConfigDict(dict(batch_size=4096, microbatch=0))
  config.mesh = dict(data=-1, fsdp=1, tensor=1)
  config.model = dict(remat="full")
  return config.lock()


def test_the_search_finds_the_largest_microbatch_that_fits():
  per_example = {"none": 60, "dots": 30, "full": 8}
  plans = search.search(
      small_config(),
      fake_compiler(lambda m, r, f: m * per_example[r] * 2**20),
  )
  best = search.fastest(plans)
  # 30 GiB hold 512 examples of 60 MiB, and not 1024.
  assert (best.microbatch, best.remat, best.mesh["fsdp"]) == (512, "none", 1)
  assert len(plans) < 20  # each is minutes
  keys = [(p.microbatch, p.remat) for p in plans[1:]]
  assert len(set(keys)) == len(keys)


def test_the_search_shards_parameters_only_where_nothing_else_fits():
  plans = search.search(
      small_config(), fake_compiler(lambda m, r, f: 40 * GIB // f)
  )
  assert search.fastest(plans).mesh["fsdp"] == 4
  plans = search.search(small_config(), fake_compiler(lambda m, r, f: 50 * GIB))
  assert not search.fastest(plans).fits


def test_the_config_as_it_is_comes_first_and_stays_as_it_is():
  config = small_config()
  config.microbatch = 64
  before = config.to_dict()
  plans = search.search(config, fake_compiler(lambda m, r, f: GIB))
  assert (plans[0].microbatch, plans[0].remat) == (64, "full")
  assert config.to_dict() == before and config.is_locked
  # All of it fits: the whole batch at once and nothing computed twice.
  best = search.fastest(plans)
  assert (best.microbatch, best.remat) == (0, "none")


def test_of_plans_that_do_not_fit_the_smallest_is_shown():
  plans = [
      plan(fits=False, step_seconds_estimate=None, peak_hbm_bytes=size * GIB)
      for size in (50, 40, 60)
  ]
  assert search.fastest(plans) is plans[1]
  slow = plan(step_seconds_estimate=9.0, peak_hbm_bytes=45 * GIB)
  assert search.fastest([*plans, slow]) is slow
