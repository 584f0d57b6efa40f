"""Plans a run on a TPU slice, without a TPU.

  python -m siglip_jax.plan --config=configs/b16_4k.py --topology=v4:2x2x1

compiles the run's train step with the TPU compiler (`pip install -e '.[plan]'`)
and prints the memory and time that it needs. `--search` searches for the
fastest settings that fit; `--json` prints one JSON object.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import time

from absl import flags
from absl import logging
import jax
import ml_collections
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import cli
from siglip_jax import files
from siglip_jax.config import check as config_check
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.plan import chips
from siglip_jax.plan import estimate
from siglip_jax.plan import hlo
from siglip_jax.plan import host
from siglip_jax.plan import search
from siglip_jax.plan import topology

_log = rich_console.Console(stderr=True, highlight=False)


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_config(config_check.fill)
  flags.DEFINE_string(
      "topology",
      "v4:2x2x1",
      "The TPU slice: a generation"
      f" ({', '.join(chips.plannable())}) and a shape in chips.",
  )
  flags.DEFINE_bool("json", False, "Print the plan as one JSON object.")
  flags.DEFINE_bool(
      "search", False, "Find the fastest microbatch, remat and fsdp that fit."
  )


def main(argv: Sequence[str]) -> int:
  """Prints a plan; returns exit status 0 if the run fits, 1 if it does not.

  It must fit in HBM, and its data in the memory of each host.
  """
  del argv
  logging.set_verbosity(logging.WARNING)
  config = cli.config()
  # Compiling needs no device, and looking for a TPU would take minutes.
  jax.config.update("jax_platforms", "cpu")
  config_check.validate(config)
  where = topology.get(flags.FLAGS.topology)
  if flags.FLAGS.search:
    plans = search.search(config, lambda c: plan(c, where))
    best = search.fastest(plans)
  else:
    plans = []
    best = plan(config, where)
  if flags.FLAGS.json:
    print(json.dumps(dataclasses.asdict(best)))
  else:
    out = rich_console.Console(highlight=False)
    if plans:
      out.print(_search_table(plans, best))
    _show(best, out)
  return 0 if best.fits and best.host_fits else 1


def plan(
    config: ml_collections.ConfigDict, where: topology.Slice
) -> estimate.Plan:
  """Returns a plan, from the cache if the same program was planned before."""
  name = (
      f"batch {config.batch_size}, microbatch {config.microbatch}, remat"
      f" {TwoTowers(**config.model.to_dict()).remat}, {where.name}"
  )
  with _status(f"Lowering {name}"):
    run, lowered = estimate.lower(config, where)
    text = lowered.as_text()
  compiled = _cached(
      f"{text}{where.name}{config.total_steps}",
      lambda: _compile(name, run, lowered, where),
  )
  # The program is the same for any loader, so this is not kept with it.
  need = host.need(config, where.chip, where.chips)
  return estimate.with_data(compiled, need)


def _compile(name, run, lowered, where) -> estimate.Plan:
  begin = time.monotonic()
  with _status(f"Compiling {name}: minutes"):
    compiled = estimate.compile_plan(run, lowered, where)
  _log.print(
      f"Compiled {name} in {time.monotonic() - begin:.0f} s: "
      + (
          f"{compiled.step_seconds_estimate:.3f} s a step"
          if compiled.fits
          else "does not fit"
      ),
      soft_wrap=True,
  )
  return compiled


def _status(what: str):
  """Returns a spinner; if the log is not a terminal, also prints one line."""
  if not _log.is_terminal:
    _log.print(what, soft_wrap=True)
  return _log.status(what)


def _cached(content: str, make: Callable[[], estimate.Plan]) -> estimate.Plan:
  """Returns make(), or the cached plan of the same content and code."""
  code = b"".join(
      Path(str(m.__file__)).read_bytes()
      for m in (chips, estimate, hlo, topology)
  )
  key = hashlib.sha256(
      content.encode() + code + repr(estimate.versions()).encode()
  )
  root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  path = Path(root) / "siglip_jax" / "plans" / f"{key.hexdigest()}.json"
  try:
    return estimate.Plan(**json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    pass  # missing or damaged: make it again
  made = make()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path, writer=f".{os.getpid()}") as partial:
      partial.write_text(json.dumps(dataclasses.asdict(made)))
  except OSError as e:
    _log.print(f"The plan is not kept for next time: {e}")
  return made


def _show(best: estimate.Plan, out: rich_console.Console) -> None:
  table = rich_table.Table(
      title=f"{best.topology}, {best.chips} chips, compiled without them",
      title_justify="left",
      show_header=False,
  )
  row = lambda name, value: table.add_row(name, str(value))
  row("batch", f"{best.global_batch:,} (microbatch {best.microbatch or 'off'})")
  row("remat, mesh", f"{best.remat}, {best.mesh}")
  over = best.peak_hbm_bytes - best.hbm_bytes
  row(
      "fits in HBM",
      "yes" if best.fits else f"no: {_gib(over)} too much for each device",
  )
  row("peak HBM", f"{_gib(best.peak_hbm_bytes)} of {_gib(best.hbm_bytes)}")
  for name, size in best.parts.items():
    row(f"  {name}", _gib(size))
  if best.fits:
    assert best.step_seconds_estimate and best.examples_per_second_estimate
    row("step", f"{best.step_seconds_estimate:.3f} s (estimate)")
    row("  compiled ops", f"{best.compiled_seconds:.3f} s, compiler's cycles")
    if best.kernels:
      row("  kernels", f"{best.kernel_seconds:.3f} s, by arithmetic:")
    for kernel in _by_name(best.kernels):
      row("", kernel)
    row("examples/s", f"{best.examples_per_second_estimate:,.0f} (estimate)")
    row("model FLOP utilisation", f"{best.model_flop_utilisation:.1%}")
    row("all steps", f"{best.days_to_finish_estimate:.1f} days (estimate)")
    for name, traffic in best.collectives.items():
      row(f"{name}", f"{traffic['count']} a step, {_gib(traffic['bytes'])}")
  _show_host(best, row)
  out.print(table)
  if not best.fits:
    out.print("What would help, the cheapest first:")
    for line in estimate.advice(best):
      out.print(f"- {line}")
  if not best.host_fits:
    out.print(
        "The data need more memory than a host has. What would help: a smaller"
        " config.data.prefetch, num_workers, cache_mb or cache_gb, a cache_dir"
        " on a disk, or a slice with more hosts."
    )


def _show_host(best: estimate.Plan, row: Callable[[str, str], None]) -> None:
  """Shows what each host needs for the data, and how fast it must be."""
  of = f" of {_gb(best.host_bytes)}" if best.host_bytes else ""
  hosts = "1 host" if best.hosts == 1 else f"each of {best.hosts} hosts"
  row("data, host memory", f"{_gb(best.host_data_bytes)}{of}, {hosts}")
  for name, size in best.host_data_parts.items():
    if size:
      row(f"  {name}", _gb(size))
  if best.host_images_per_second is not None:
    row("  images/s a host", f"{best.host_images_per_second:,.0f} (estimate)")


def _by_name(kernels: Sequence[dict]) -> list[str]:
  """Returns one line per kernel name, with its times added up."""
  sums: dict[str, dict] = {}
  for kernel in kernels:
    total = sums.setdefault(kernel["name"], {"times": 0})
    total["times"] += kernel["times"]
    for way, seconds in kernel["seconds"].items():
      total[way] = total.get(way, 0.0) + seconds
  return [
      f"{name}: {total.pop('times')} x, "
      + ", ".join(f"{way} {seconds:.3f} s" for way, seconds in total.items())
      for name, total in sums.items()
  ]


def _search_table(plans: Sequence[estimate.Plan], best: estimate.Plan):
  table = rich_table.Table(title="Tried", title_justify="left")
  for column in ("microbatch", "remat", "fsdp", "peak HBM", "step", ""):
    table.add_column(column, justify="right")
  for p in plans:
    step = f"{p.step_seconds_estimate:.3f} s" if p.fits else "does not fit"
    table.add_row(
        str(p.microbatch or "off"),
        p.remat,
        str(p.mesh["fsdp"]),
        _gib(p.peak_hbm_bytes),
        step,
        "best" if p is best and p.fits else "",
    )
  return table


def _gib(size: float) -> str:
  return f"{size / 2**30:.2f} GiB"


def _gb(size: float) -> str:
  return f"{size / 1e9:.1f} GB"  # as machine types are sold


if __name__ == "__main__":
  cli.main(main, define_flags)
