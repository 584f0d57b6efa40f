"""A search for the fastest settings of a run that fit on a slice."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import math

import ml_collections

from siglip_jax.plan.estimate import Plan

_REMATS = ("none", "dots", "full")


def search(
    config: ml_collections.ConfigDict,
    plan: Callable[[ml_collections.ConfigDict], Plan],
) -> list[Plan]:
  """Plans a config with different settings of microbatch, remat and fsdp.

  Memory grows with the microbatch, so for each remat policy a binary search
  finds the largest microbatch that fits. The next smaller size is also tried,
  because small microbatches can be faster when they fit into faster memory.
  Sharded parameters cost traffic in every step, so they are tried only if
  nothing fits without them.

  Args:
    config: a validated config; its own settings are tried first.
    plan: compiles a config and returns its plan.

  Returns:
    All plans, in the order in which they were made.
  """
  plans = [plan(config)]
  devices = math.prod(plans[0].mesh.values())
  for fsdp in dict.fromkeys((plans[0].mesh["fsdp"], devices)):
    for remat in _REMATS:
      plans += _search_microbatch(config, plan, remat, fsdp, devices)
    if any(p.fits for p in plans):
      break
  return plans


def fastest(plans: Sequence[Plan]) -> Plan:
  """Returns the fastest plan that fits, or the smallest plan if none fits."""
  fitting = [p for p in plans if p.step_seconds_estimate is not None]
  if fitting:
    return min(fitting, key=lambda p: p.step_seconds_estimate or 0.0)
  return min(plans, key=lambda p: p.peak_hbm_bytes)


def _search_microbatch(config, plan, remat: str, fsdp: int, devices: int):
  """Yields plans up to the largest microbatch that fits, and one smaller."""
  sizes = _microbatches(config.batch_size, devices)
  tried: dict[int, Plan] = {}

  def attempt(i: int) -> Iterator[Plan]:
    if i not in tried:
      tried[i] = plan(_override(config, sizes[i], remat, fsdp))
      yield tried[i]

  low, high = 0, len(sizes) - 1
  while low < high:
    middle = (low + high + 1) // 2
    yield from attempt(middle)
    low, high = (middle, high) if tried[middle].fits else (low, middle - 1)
  for i in {low, max(low - 1, 0)}:
    yield from attempt(i)


def _microbatches(batch_size: int, devices: int) -> list[int]:
  """Returns microbatches in ascending order; 0, the whole batch, is last.

  They are the batch halved repeatedly, down to 16 examples per device.
  """
  sizes, size = [0], batch_size
  while size % (2 * devices) == 0 and size // 2 >= 16 * devices:
    size //= 2
    sizes.insert(0, size)
  return sizes


def _override(config, microbatch: int, remat: str, fsdp: int):
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.microbatch = microbatch
    changed.model.remat = remat
    changed.mesh.fsdp = fsdp
    if fsdp > 1:
      changed.mesh.data = -1
  return changed
