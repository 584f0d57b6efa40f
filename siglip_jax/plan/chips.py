"""The one table of hardware facts: what each generation of TPU has.

Plans, kernels and the scripts of tpu/ read it, so a new chip is one row here.
The scripts are bash: `python -m siglip_jax.plan.chips >tpu/chips.sh` hands the
table to them, and a test compares the two.
"""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One generation; figures are of a device, which up to v3 is half a chip.

  Attributes:
    kind: as JAX names the device (`device_kind`).
    hbm: usable bytes, as the compiler states them when it runs out.
    clock: cycles a second, of the compiler's estimates.
    flops: peak bfloat16 operations a second (vendor's data sheet).
    bandwidth: of HBM, bytes a second (vendor's data sheet).
    vmem: MiB of fast memory that the compiler lets one kernel use.
    mxu: side of the matrix unit.
    kernels: whether the compiler takes Pallas kernels.
    axes: how many sizes a slice's shape has.
    largest: chips of the largest slice planned for here; 0 for none.
    accelerator: a slice of one host as the cloud names it; libtpu asks.
    runtime: software version of the cloud's machines.
    cores_a_host: as accelerator types count: cores, or chips from v5e on, of a
      host in a slice of several.
    whole_host: the largest slice, counted alike, that is one host.
    options: what `get_topology_desc` needs beside the name.
  """

  kind: str
  hbm: int
  clock: float
  flops: float
  bandwidth: float
  vmem: int
  mxu: int
  axes: int
  accelerator: str
  runtime: str
  kernels: bool = True
  largest: int = 256
  cores_a_host: int = 8
  whole_host: int = 8
  options: dict = dataclasses.field(default_factory=dict)

  @property
  def prefix(self) -> str:
    """The part of an accelerator type before its number."""
    return self.accelerator.rpartition("-")[0]


CHIPS = {
    "v2": Chip(
        kind="TPU v2",
        hbm=8 * _GIB,  # of the data sheet: nothing was compiled for it
        clock=0.7e9,
        flops=23e12,
        bandwidth=350e9,
        vmem=16,
        mxu=128,
        kernels=False,
        axes=2,
        largest=0,
        accelerator="v2-8",
        runtime="tpu-ubuntu2204-base",
    ),
    "v3": Chip(
        kind="TPU v3",
        hbm=int(15.48 * _GIB),
        clock=0.94e9,
        flops=61.5e12,
        bandwidth=450e9,
        vmem=16,
        mxu=128,
        kernels=False,
        axes=2,
        accelerator="v3-8",
        runtime="tpu-ubuntu2204-base",
    ),
    "v4": Chip(
        kind="TPU v4",
        hbm=int(30.75 * _GIB),
        clock=1.05e9,
        flops=275e12,
        bandwidth=1228e9,
        vmem=16,
        mxu=128,
        axes=3,
        accelerator="v4-8",
        runtime="tpu-ubuntu2204-base",
        options=dict(
            chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1)
        ),
    ),
    "v5e": Chip(
        kind="TPU v5 lite",
        hbm=int(15.75 * _GIB),
        clock=1.5e9,
        flops=197e12,
        bandwidth=819e9,
        vmem=128,
        mxu=128,
        axes=2,
        accelerator="v5litepod-4",
        runtime="v2-alpha-tpuv5-lite",
        cores_a_host=4,
    ),
    "v5p": Chip(
        kind="TPU v5",
        hbm=int(95.73 * _GIB),
        clock=1.75e9,
        flops=459e12,
        bandwidth=2765e9,
        vmem=64,
        mxu=128,
        axes=3,
        accelerator="v5p-8",
        runtime="v2-alpha-tpuv5",
    ),
    "v6e": Chip(
        kind="TPU v6 lite",
        hbm=int(31.24 * _GIB),
        clock=1.75e9,
        flops=918e12,
        bandwidth=1640e9,
        vmem=128,
        mxu=256,
        axes=2,
        accelerator="v6e-4",
        runtime="v2-alpha-tpuv6e",
        cores_a_host=4,
    ),
}

# A device that no row describes gets the least, which fits everywhere.
_UNKNOWN = CHIPS["v4"]


def of_kind(kind: str) -> Chip:
  """Returns the row of a device kind; for an unknown one that of v4."""
  return next((c for c in CHIPS.values() if c.kind == kind), _UNKNOWN)


def plannable() -> list[str]:
  """Returns the generations that slices can be planned for."""
  return [name for name, chip in CHIPS.items() if chip.largest]


def as_bash() -> str:
  """Returns what the scripts need of the table, as bash functions."""
  prefixes = [f"{chip.prefix}-" for chip in CHIPS.values()]
  known = f"{', '.join(prefixes[:-1])} or {prefixes[-1]}"
  runtimes, workers = [], []
  for chip in CHIPS.values():
    runtimes.append(f"    {chip.prefix}-*) echo {chip.runtime} ;;")
    small, host = chip.whole_host, chip.cores_a_host
    workers.append(
        f"    {chip.prefix}-*) echo $(($1 > {small} ? $1 / {host} : 1)) ;;"
    )
  lines = [
      "# shellcheck shell=bash",
      "# Made of siglip_jax/plan/chips.py; change that, then run",
      "#   python -m siglip_jax.plan.chips >tpu/chips.sh",
      "",
      "# shellcheck disable=SC2034  # for settings.sh",
      f"readonly ACCELERATOR_PREFIXES='{known}'",
      "",
      "# The software version of the machines of $ACCELERATOR_TYPE.",
      "default_runtime() {",
      "  case $ACCELERATOR_TYPE in",
      *runtimes,
      "    *) return 1 ;;",
      "  esac",
      "}",
      "",
      "# usual_workers SIZE: how many machines a slice of that number has.",
      "usual_workers() {",
      "  case $ACCELERATOR_TYPE in",
      *workers,
      "  esac",
      "}",
  ]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  print(as_bash(), end="")
