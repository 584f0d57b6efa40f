"""The table of hardware facts of each TPU generation.

Plans, kernels and the scripts in tpu/ use this table, so a new chip needs one
row here. `python -m siglip_jax.plan.chips >tpu/chips.sh` writes the part that
the bash scripts need; a test checks that the two agree.
"""

import dataclasses

_GIB = 2**30
_GB = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One TPU generation.

  Figures are for one JAX device, which up to v3 is half a chip.

  Attributes:
    kind: name of the device in JAX (`device_kind`).
    hbm: usable HBM, bytes, as the compiler states it when HBM runs out.
    clock: clock of the compiler's cycle estimates, cycles per second.
    flops: peak bfloat16 operations per second (vendor's data sheet).
    bandwidth: HBM bandwidth, bytes per second (vendor's data sheet).
    vmem: fast memory that the compiler lets one kernel use, MiB.
    mxu: side of the matrix unit.
    kernels: whether the compiler accepts Pallas kernels.
    axes: number of sizes in a slice's shape.
    largest: number of chips of the largest slice that can be planned; 0 if
      none.
    accelerator: the cloud's accelerator type of a slice of one host, which
      libtpu asks for.
    runtime: software version of the cloud's TPU machines.
    cores_a_host: size of a host in a slice of several hosts, in the unit of
      accelerator types: cores, or chips for v5e and v6e.
    whole_host: size of the largest slice of one host, in the same unit.
    units_a_chip: what a chip counts for in accelerator types.
    host_memory: memory of a host, bytes for each of its chips (the cloud's
      table of machine types); None if it is not known.
    options: arguments that `get_topology_desc` needs besides the name.
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
  units_a_chip: int = 2
  host_memory: int | None = None
  options: dict = dataclasses.field(default_factory=dict)

  @property
  def prefix(self) -> str:
    """The part of an accelerator type before its number, without the dash."""
    return self.accelerator.rpartition("-")[0]

  def hosts(self, chips: int) -> int:
    """Returns the number of hosts of a slice of so many chips."""
    size = chips * self.units_a_chip
    return -(-size // self.cores_a_host) if size > self.whole_host else 1


CHIPS = {
    "v2": Chip(
        kind="TPU v2",
        hbm=8 * _GIB,  # from the data sheet; nothing was compiled for v2
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
        host_memory=407 * _GB // 4,  # ct4p-hightpu-4t
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
        units_a_chip=1,
        host_memory=192 * _GB // 4,  # ct5lp-hightpu-4t; 384 GB of 8 chips
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
        host_memory=448 * _GB // 4,  # ct5p-hightpu-4t
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
        units_a_chip=1,
        host_memory=720 * _GB // 4,  # ct6e-standard-4t
    ),
}

# Unknown devices get the row with the least VMEM, which fits everywhere.
_UNKNOWN = CHIPS["v4"]


def of_kind(kind: str) -> Chip:
  """Returns the row of a device kind, or the row of v4 if it is unknown."""
  return next((c for c in CHIPS.values() if c.kind == kind), _UNKNOWN)


def plannable() -> list[str]:
  """Returns the generations that slices can be planned for."""
  return [name for name, chip in CHIPS.items() if chip.largest]


def as_bash() -> str:
  """Returns the part of the table that tpu/ needs, as bash functions."""
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
