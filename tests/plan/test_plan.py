"""Plans: topologies, the search, the command and what it prints."""

import dataclasses
import json
import subprocess
import sys

import ml_collections
import pytest

from siglip_jax.errors import UserError
from siglip_jax.plan import estimate
from siglip_jax.plan import search
from siglip_jax.plan import topology

GIB = 2**30


def plan(**changes):
  given = dict(
      topology="v4:2x2x1",
      chips=4,
      global_batch=4096,
      microbatch=0,
      remat="none",
      mesh=dict(data=4, fsdp=1, tensor=1),
      fits=True,
      peak_hbm_bytes=10 * GIB,
      hbm_bytes=30 * GIB,
      parts=dict(parameters=GIB, optimizer=2 * GIB, inputs=GIB),
      step_seconds_estimate=1.0,
  )
  return estimate.Plan(**given | changes)


@pytest.mark.parametrize(
    "name, match",
    [
        ("v9:2x2", "Known are v3, v4, v5e, v5p, v6e"),
        ("v4", "Known are"),
        ("v4:2x2", "has 3 sizes"),
        ("v4:2x2x0", "up to 256 chips"),
        ("v5e:32x32", "up to 256 chips"),
        ("v4:2xax1", "Unknown topology"),
    ],
)
def test_an_unknown_topology_lists_the_known_ones(name, match):
  with pytest.raises(UserError, match=match):
    topology.get(name)


@pytest.mark.parametrize(
    "system, machine, match",
    [
        ("Linux", "x86_64", r"pip install -e '\.\[plan\]'"),
        ("Darwin", "arm64", "Linux x86_64 only; this is Darwin arm64"),
    ],
)
def test_a_missing_libtpu_says_what_to_do(monkeypatch, system, machine, match):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setattr("platform.system", lambda: system)
  monkeypatch.setattr("platform.machine", lambda: machine)
  with pytest.raises(UserError, match=match):
    topology.get("v4:2x2x1")


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


TINY = """
from siglip_jax.config.check import parse_arg
import importlib.util
def get_config(arg=None):
  spec = importlib.util.spec_from_file_location("b16", "configs/b16_4k.py")
  b16 = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(b16)
  c = b16.get_config()
  c.batch_size, c.microbatch, c.model.scan = 64, 16, True
  c.image_size = 32
  sizes = dict(width=128, depth=2, mlp_dim=256, num_heads=2)
  c.model.image = dict(patch=16, **sizes)
  c.model.text = dict(vocab_size=512, **sizes)
  c.model.out_dim = (None, 128)
  return c
"""


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


@pytest.mark.tpu_compile
def test_the_command_plans_the_real_step_and_keeps_the_plan(slices, tmp_path):
  del slices  # the command needs the compiler
  (tmp_path / "tiny.py").write_text(TINY)
  command = [
      *(sys.executable, "-m", "siglip_jax.plan", "--json"),
      *(f"--config={tmp_path}/tiny.py", "--topology=v4:2x2x1"),
  ]
  env = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}

  def run(*more):
    return subprocess.run(
        [*command, *more], env=env, capture_output=True, text=True, timeout=300
    )

  done = run()
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["fits"] is True and found["chips"] == 4
  assert found["global_batch"] == 64
  assert found["hbm_bytes"] == int(30.75 * GIB)
  held = sum(found["parts"].values())
  assert found["peak_hbm_bytes"] == held
  assert found["step_seconds_estimate"] > 0
  assert found["collectives"]["collective-permute"]["count"] > 0
  days = found["step_seconds_estimate"] * 586_000 / 86_400
  assert found["days_to_finish_estimate"] == pytest.approx(days)
  assert {f.name for f in dataclasses.fields(estimate.Plan)} == found.keys()

  again = run()
  assert json.loads(again.stdout) == found
  assert "Compiled" in done.stderr and "Compiled" not in again.stderr

  for microbatch, nearest in (("0", "64 and 68"), ("16", "64 and 80")):
    wrong = run("--config.batch_size=66", f"--config.microbatch={microbatch}")
    assert wrong.returncode == 2 and nearest in wrong.stderr, wrong.stderr
    assert "Traceback" not in wrong.stderr
