"""Memory of a host that the data need, and how fast a host must be."""

import config_files
from plans import plan
import pytest

from siglip_jax.plan import chips
from siglip_jax.plan import estimate
from siglip_jax.plan import host

GB = 10**9
LARGE = ("b16_4k", "l256_lit", "g14_lit", "b8_lit")


def need(name="b16_4k", chip="v4", count=4, arg=None, **data):
  """What a config needs on a slice, after changes in config.data."""
  config = config_files.get(name, arg)[1].copy_and_resolve_references()
  with config.unlocked():
    config.data.update(data)
  return host.need(config, chips.CHIPS[chip], count)


@pytest.mark.parametrize("name", LARGE)
def test_the_data_of_the_large_configs_need_less_than_100_gb(name):
  found = need(name)
  assert found.hosts == 1 and found.host_bytes == 407 * GB
  assert 6 * GB < sum(found.parts.values()) < 100 * GB


def test_a_host_holds_its_share_of_prefetch_and_two_more_batches():
  row = 224 * 224 * 3 + 16 * 4 + 4
  four = need(prefetch=4, num_workers=2, cache_mb=0)
  assert four.parts["batches"] == 6 * 4096 * row
  assert need(prefetch=7).parts["batches"] == 9 * 4096 * row
  halves = need(count=8, prefetch=4)
  assert halves.hosts == 2
  assert halves.parts["batches"] == 6 * 2048 * row
  more = need(num_workers=5).parts["workers"]
  assert more / 5 == four.parts["workers"] / 2 == host.WORKER_BYTES


def test_an_evaluation_has_as_many_batches_of_images():
  assert need(prefetch=4).parts["evaluations"] == 6 * 4096 * 224 * 224 * 3
  config = config_files.get("b16_4k")[1].copy_and_resolve_references()
  with config.unlocked():
    config.evals = {}
  assert not host.need(config, chips.CHIPS["v4"], 4).parts["evaluations"]


def test_stored_embeddings_are_small():
  images = need("l256_lit", prefetch=4).parts["batches"]
  stored = need("l256_lit", arg="embeddings=e", prefetch=4).parts["batches"]
  assert stored == 6 * 20_480 * (1024 * 2 + 16 * 4 + 4)
  assert stored < images / 50


BUCKET = "gs://b/{00000..00009}.tar"
SMALL, BIG = dict(window=8, block_mb=4), dict(block_mb=32)
WINDOWS = 1.65 * 64 * 32 * 8 * 2**20


@pytest.mark.parametrize(
    "data, chip, count, blocks",
    [
        (dict(tars=BUCKET), "v4", 4, WINDOWS),
        (dict(tars=BUCKET), "v4", 64, WINDOWS / 16),
        (dict(tars=BUCKET), "v3", 4, WINDOWS),  # of unknown memory
        (
            dict(tars=BUCKET, order=BIG),
            "v5e",
            4,
            96 * GB / 1.1,
        ),  # /dev/shm has no more
        (
            dict(mix=2 * [dict(tars=BUCKET)], order=BIG),
            "v5e",
            4,
            0,
        ),  # goes to the disk
        (dict(tars=[BUCKET], cache_gb=40), "v4", 4, 40 * GB),
        (dict(tars=[BUCKET], cache_gb=97), "v5e", 4, 0),
        (dict(tars=BUCKET, order=SMALL), "v4", 4, WINDOWS / 8),
        (dict(tars=BUCKET, cache_dir="/mnt/disk"), "v4", 4, 0),
        (dict(tars="here/{00000..00009}.tar"), "v4", 4, 0),
        (dict(parquet="here/*.parquet"), "v4", 4, WINDOWS),
        (dict(path="images"), "v4", 4, 0),
        (dict(mix=[dict(path="images")], cache_gb=40), "v4", 4, 0),
        (dict(mix=[dict(tars=BUCKET), dict(path="x")]), "v4", 4, WINDOWS),
        (dict(mix=2 * [dict(tars=BUCKET)]), "v3", 4, 2 * WINDOWS),
    ],
)
def test_blocks_that_are_read_ahead_are_in_memory(data, chip, count, blocks):
  config = config_files.get("b16_4k")[1].copy_and_resolve_references()
  with config.unlocked():
    del config.data.name, config.data.data_dir
    config.data.update(data)
  found = host.need(config, chips.CHIPS[chip], count)
  assert found.parts["blocks"] == pytest.approx(blocks, abs=1)


def test_a_cache_is_in_each_worker_or_in_the_run():
  assert need(num_workers=3, cache_mb=100).parts["caches"] == 300 * 10**6
  assert need(num_workers=0, cache_mb=100).parts["caches"] == 100 * 10**6


@pytest.mark.parametrize(
    "chip, count, hosts, gigabytes",
    [
        ("v4", 16, 4, 407),
        ("v5e", 4, 1, 192),
        ("v5e", 8, 1, 384),
        ("v5e", 16, 4, 192),
        ("v5p", 8, 2, 448),
        ("v6e", 64, 16, 720),
        ("v3", 4, 1, None),
        ("v3", 32, 8, None),
    ],
)
def test_hosts_and_their_memory_follow_from_the_chips(
    chip, count, hosts, gigabytes
):
  found = need(chip=chip, count=count)
  assert found.hosts == hosts
  assert found.host_bytes == (gigabytes and gigabytes * GB)


def test_a_plan_says_what_a_host_must_hold_and_how_fast_it_must_be():
  parts = dict(batches=4 * GB, workers=GB, caches=0, blocks=0)
  small = host.Need(hosts=2, host_bytes=4 * GB, parts=parts)
  planned = estimate.with_data(plan(examples_per_second_estimate=3000.0), small)
  assert planned.host_images_per_second == 1500
  assert planned.host_data_bytes == 5 * GB
  assert planned.fits and not planned.host_fits
  unknown = host.Need(hosts=2, host_bytes=None, parts=parts)
  planned = estimate.with_data(plan(), unknown)
  assert planned.host_fits and planned.host_images_per_second is None
