"""Measures how fast this host reads and prepares the training data of a config.

  python -m siglip_jax.data.speed --config=configs/NAME.py [--plan=FILE]

prints images a second for each stage alone, and for the loader with the
config's threads and worker processes. With --plan, a file that
`python -m siglip_jax.plan --json` wrote, or with --topology, which plans the
run, it also prints what the step needs; status 1 then means that the loader is
slower than that.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import json
import os
from pathlib import Path
import time
from typing import Any

from absl import flags
import jax
import ml_collections
import numpy as np

from siglip_jax import cli
from siglip_jax.config import check as config_check
from siglip_jax.config import schema
from siglip_jax.config import sources as config_sources
from siglip_jax.config import strings
from siglip_jax.data import order as order_lib
from siglip_jax.data import pipeline
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import Record
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.plan import __main__ as plan_command
from siglip_jax.plan import topology

_ROWS = 256  # about the examples in a batch of the loader
_TEXTS = 32  # tokenized at a time, as the loader does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Images a second on one host.

  Attributes:
    reads: number of records that are read at a time.
    read: rate of reading alone, with so many at a time.
    images: rate of decoding and all else before tokenizing, on one core.
    texts: rate of tokenizing, on one core; infinite where it takes no time.
    loader: rate of batches, with the config's threads and worker processes.
    unreadable: number of the records that were not read.
  """

  reads: int
  read: float
  images: float
  texts: float
  loader: float
  unreadable: int


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string("plan", None, "A plan of this config, as JSON.")
  flags.DEFINE_string("topology", None, "A TPU slice to plan for: minutes.")
  flags.DEFINE_integer(
      "examples", 512, "Records to read, drawn at random.", lower_bound=1
  )
  flags.DEFINE_float(
      "seconds", 5.0, "Time to run the loader for.", lower_bound=0.1
  )


def main(argv: Sequence[str]) -> int:
  """Prints a table; returns 1 if the loader is slower than the step needs."""
  del argv
  config = cli.config()
  config_check.validate(config)
  options = flags.FLAGS
  need = _need(config, options.plan, options.topology)
  speed = measure(config, options.examples, options.seconds)
  return show(speed, need)


def measure(
    config: ml_collections.ConfigDict, examples: int, seconds: float
) -> Speed:
  """Returns the rates for the training data of a config.

  Args:
    config: a validated config.
    examples: number of records to read.
    seconds: time to run the loader for, once it has begun.

  Raises:
    UserError: the data cannot be read, or do not fit the config.
  """
  source = config_sources.train_source(config)
  pp = strings.make(config, source).train
  options = schema.defaults(pipeline.train_iterator)
  options |= config_sources.loader_options(config)
  rng = np.random.default_rng(0)
  count = min(examples, len(source))
  indices = rng.choice(len(source), count, replace=False).tolist()
  reads = options["num_threads"] * max(options["num_workers"], 1)
  records, read = _timed(lambda: _read(source, indices, reads))
  if not records:
    raise UserError(
        f"None of {count} records could be read; the first is"
        f" {source.key(indices[0])}. Check the data."
    )
  drawn, images = _timed(lambda: list(_prepared(pp, source, records, rng)))
  if not drawn:
    raise UserError(f"None of {len(records)} images could be decoded.")
  _, texts = _timed(lambda: _tokenize(pp, drawn))
  return Speed(
      reads=reads,
      read=len(indices) / read,
      images=len(records) / images,
      texts=len(drawn) / texts,
      loader=_loader(config, source, pp, seconds),
      unreadable=len(indices) - len(drawn),
  )


def show(speed: Speed, need: float | None) -> int:
  """Prints rates beside those of a step; returns the command's status."""
  rows = [
      (f"read, {speed.reads} at a time", speed.read),
      ("decode and resize, one core", speed.images),
      ("tokenize, one core", speed.texts),
      (f"loader, {os.cpu_count()} cores", speed.loader),
  ]
  if need is not None:
    rows.append(("needed by the step", need))
  print(f"{'images/s on this host':32}")
  for what, rate in rows:
    print(f"  {what:32}{rate:10,.0f}")
  if speed.unreadable:
    print(f"{speed.unreadable} records could not be read; training replaces.")
  if need is None:
    return 0
  share = speed.loader / need
  if share >= 1:
    print(f"The loader makes {share:.1f} times what the step needs.")
    return 0
  print(
      f"The loader makes {share:.0%} of what the step needs, so it would wait"
      f" for data. It takes {need / speed.images:.0f} cores to decode and"
      " resize; if this host has them, raise config.data.num_workers and"
      " num_threads. Smaller image files and resize(SIDE, 'area') cost less."
  )
  return 1


def _need(
    config: ml_collections.ConfigDict, path: str | None, name: str | None
) -> float | None:
  """Returns the images a second that the plan's step needs of a host."""
  if path is not None and name is not None:
    raise UserError("Give --plan=FILE or --topology=SLICE, not both.")
  if name is not None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs on a device
    rate = plan_command.plan(config, topology.get(name)).host_images_per_second
  elif path is not None:
    rate = _planned(Path(path))
  else:
    return None
  if rate is None:
    raise UserError(
        "The plan must fit in the TPU's memory to have a step time, and it"
        " does not: see python -m siglip_jax.plan."
    )
  return rate


def _planned(path: Path) -> float | None:
  try:
    plan = json.loads(path.read_text())
  except (OSError, ValueError) as e:
    raise UserError(f"--plan={path} cannot be read: {e}") from None
  if not isinstance(plan, dict) or "host_images_per_second" not in plan:
    raise UserError(
        f"--plan={path} must be what python -m siglip_jax.plan --json prints;"
        " it has no host_images_per_second."
    )
  return plan["host_images_per_second"]


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
  start = time.perf_counter()
  result = function()
  return result, max(time.perf_counter() - start, 1e-9)


def _read(source: Source, indices: Sequence[int], reads: int) -> list[Record]:
  """Returns the records that can be read, `reads` at a time."""

  def read(index: int) -> Record | None:
    try:
      return source[index]
    except (OSError, ImageError):
      return None

  with futures.ThreadPoolExecutor(reads) as pool:
    return [r for r in pool.map(read, indices) if r is not None]


def _prepared(
    pp: Preprocess, source: Source, records: Sequence[Record], rng
) -> Iterator[Record]:
  """Yields what `pp` makes of records before it tokenizes."""
  draw = getattr(source, "draw", None)
  for record in records:
    try:
      record = draw(record, rng) if draw else record
      yield pp.draw(pp.begin(record), rng)
    except ImageError:
      continue


def _tokenize(pp: Preprocess, records: Sequence[Record]) -> None:
  for start in range(0, len(records), _TEXTS):
    pp.tokenize(records[start : start + _TEXTS])


def _loader(
    config: ml_collections.ConfigDict,
    source: Source,
    pp: Preprocess,
    seconds: float,
) -> float:
  """Returns the rate of the loader once it has begun."""
  options = config_sources.loader_options(config)
  lanes = order_lib.make(
      source,
      seed=0,
      order=options.get("order"),
      batch_size=config.batch_size,
  ).lanes
  # Batches of a large config would take minutes on a small host.
  size = min(config.batch_size, lanes * max(_ROWS // lanes, 1))
  batches = pipeline.train_iterator(
      source, pp, batch_size=size, seed=0, total_steps=10**9, **options
  )
  held = schema.defaults(pipeline.train_iterator) | options
  for _ in range(held["prefetch"] + 2):  # those were begun before the clock
    next(batches)
  start, count = time.perf_counter(), 0
  while time.perf_counter() < start + seconds:
    next(batches)
    count += size
  return count / (time.perf_counter() - start)


if __name__ == "__main__":
  cli.main(main, define_flags)
