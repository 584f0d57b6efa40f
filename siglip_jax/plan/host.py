"""Memory that the data of a run need on each host, and the rate they need.

It is arithmetic on the config, without the data and without a compiler.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import ml_collections

from siglip_jax.config import schema
from siglip_jax.config import sources as config_sources
from siglip_jax.data import kinds
from siglip_jax.data import order as order_lib
from siglip_jax.data import pipeline
from siglip_jax.data import remote
from siglip_jax.data.tars.source import BLOCK_MB
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.plan import chips as chips_lib

# Besides the batches that it waits for, the loader holds one that it fills and
# one that the device copies.
_IN_HAND = 2
_INT32 = 4
# A worker process of the loader without any data: Python, NumPy and the
# libraries that read and decode (benchmarks/loader_latency.py measures it).
WORKER_BYTES = 150 * 10**6
# What `blocks.start` takes if it may, beside the windows that are read: half of
# the next ones, and a tenth as blocks differ in size. It leaves as much of
# /dev/shm, which has half of the memory on Linux.
_WINDOWS, _SPARE, _SHM = 1.65, 1.1, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
  """The memory that the data of a run need on each host.

  Attributes:
    hosts: number of hosts.
    host_bytes: memory of a host, or None if it is not known.
    parts: what the data need, in bytes: for "batches" of training and for those
      of "evaluations", for the "workers" themselves, for "caches" of decoded
      records, and for "blocks" that are read ahead.
  """

  hosts: int
  host_bytes: int | None
  parts: dict[str, int]


def need(
    config: ml_collections.ConfigDict, chip: chips_lib.Chip, chips: int
) -> Need:
  """Returns what the data of a config need on each host of a slice.

  Args:
    config: a validated config.
    chip: facts of the slice's generation.
    chips: number of chips of the slice.
  """
  options = schema.defaults(pipeline.train_iterator)
  options |= config_sources.loader_options(config)
  hosts, workers = chip.hosts(chips), options["num_workers"]
  images = -(-config.batch_size // hosts) * _image_bytes(config)
  rest = -(-config.batch_size // hosts) * _INT32 * (config.text_len + 1)
  batches = options["prefetch"] + _IN_HAND
  host_bytes = None
  if chip.host_memory is not None:
    host_bytes = chip.host_memory * chips // hosts
  return Need(
      hosts=hosts,
      host_bytes=host_bytes,
      parts={
          "batches": batches * (images + rest),
          # An evaluation has a loader of its own while training waits.
          "evaluations": batches * images if config.evals else 0,
          "workers": workers * WORKER_BYTES,
          # Without workers, the run's own process has the cache.
          "caches": max(workers, 1) * options["cache_mb"] * 10**6,
          "blocks": _block_bytes(config, hosts, host_bytes),
      },
  )


def _image_bytes(config: ml_collections.ConfigDict) -> int:
  """Returns the size of an image, or of its embedding, in a batch."""
  model = TwoTowers(**config.model.to_dict())
  if model.embedded:
    return model.image_dim * jnp.dtype(model.dtype).itemsize
  return 3 * config.image_size**2


def _block_bytes(
    config: ml_collections.ConfigDict, hosts: int, host_bytes: int | None
) -> int:
  """Returns the size of the blocks that are read ahead into memory.

  Row groups of parquet, whose size is in the files alone, count as blocks of
  the size that those of tars have.
  """
  defaults = schema.defaults(kinds.make)
  data = defaults | config_sources.source_arguments(config)
  if data["order"] == "global" or data["cache_dir"] is not None:
    return 0  # nothing is read ahead, or it lies on a disk
  fetched = [p for p in data["mix"] or [data] if _is_fetched(defaults | p)]
  order = data["order"] or {}
  lanes, window = order_lib.numbers(order, config.batch_size)
  size = order.get("block_mb", BLOCK_MB) << 20
  at_once = len(fetched) * -(-lanes // hosts) * window * size
  room = math.inf if host_bytes is None else _SHM * host_bytes
  if data["cache_gb"] is not None:
    limit = data["cache_gb"] * 1e9 if fetched else 0
    return int(limit) if limit <= room else 0
  if at_once > room:
    return 0  # they go to the folder for temporary files
  return int(max(at_once, min(_WINDOWS * at_once, room / _SPARE)))


def _is_fetched(data: Mapping[str, Any]) -> bool:
  """Whether blocks are fetched before records are read."""
  tars = [data["tars"]] if isinstance(data["tars"], str) else data["tars"] or ()
  return data["parquet"] is not None or any(map(remote.is_remote, tars))
