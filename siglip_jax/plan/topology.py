"""TPU slices by name, for compiling with no TPU at hand.

libtpu, the compiler, installs from the package index on Linux x86-64.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import math
import os
import platform
import re

import jax
from jax.experimental import topologies

from siglip_jax.errors import UserError

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One generation; figures are of a device, which on v3 is half a chip.

  Attributes:
    hbm: usable bytes, as the compiler states them when it runs out.
    clock: cycles a second, of the compiler's estimates.
    flops: peak bfloat16 operations a second (vendor's data sheet).
    bandwidth: of HBM, bytes a second (vendor's data sheet).
    axes: how many a slice's shape has.
    largest: chips of the largest slice planned for here.
    accelerator: a slice of one host as the cloud names it; libtpu asks.
    options: what `get_topology_desc` needs beside the name.
  """

  hbm: int
  clock: float
  flops: float
  bandwidth: float
  axes: int
  accelerator: str
  largest: int = 256
  options: dict = dataclasses.field(default_factory=dict)


CHIPS = {
    "v3": Chip(
        hbm=int(15.48 * _GIB),
        clock=0.94e9,
        flops=61.5e12,
        bandwidth=450e9,
        axes=2,
        accelerator="v3-8",
    ),
    "v4": Chip(
        hbm=int(30.75 * _GIB),
        clock=1.05e9,
        flops=275e12,
        bandwidth=1228e9,
        axes=3,
        accelerator="v4-8",
        options=dict(
            chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1)
        ),
    ),
    "v5e": Chip(
        hbm=int(15.75 * _GIB),
        clock=1.5e9,
        flops=197e12,
        bandwidth=819e9,
        axes=2,
        accelerator="v5litepod-4",
    ),
    "v5p": Chip(
        hbm=int(95.73 * _GIB),
        clock=1.75e9,
        flops=459e12,
        bandwidth=2765e9,
        axes=3,
        accelerator="v5p-8",
    ),
    "v6e": Chip(
        hbm=int(31.24 * _GIB),
        clock=1.75e9,
        flops=918e12,
        bandwidth=1640e9,
        axes=2,
        accelerator="v6e-4",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
  """A slice that programs can be compiled for."""

  name: str
  chip: Chip
  chips: int
  devices: Sequence[jax.Device]


def get(name: str) -> Slice:
  """The slice of a name like "v4:2x2x1".

  Raises:
    UserError: no such slice, or no libtpu.
  """
  generation, _, shape = name.partition(":")
  sizes = shape.split("x")
  if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
    raise UserError(f"Unknown topology {name!r}. {_known()}")
  chip = CHIPS[generation]
  chips = math.prod(map(int, sizes))
  if len(sizes) != chip.axes or not 1 <= chips <= chip.largest:
    raise UserError(
        f"A {generation} slice has {chip.axes} sizes and up to"
        f" {chip.largest} chips; got {name!r}. {_known()}"
    )
  _check_libtpu()
  # Without a TPU libtpu must not look for one, nor lock out other processes.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", chip.accelerator)
  options = dict(chip.options)
  if options and chips < 4:
    options["chips_per_host_bounds"] = tuple(map(int, sizes))
  try:
    description = topologies.get_topology_desc(
        platform="tpu", topology_name=name, **options
    )
  except Exception as e:  # pylint: disable=broad-except
    raise UserError(
        f"libtpu has no topology {name!r}"
        f" ({(str(e).splitlines() or [''])[0][:200]}). {_known()}"
    ) from None
  return Slice(name=name, chip=chip, chips=chips, devices=description.devices)


def _known() -> str:
  examples = "v3:4x4 v4:2x2x1 v4:2x2x4 v4:4x4x8 v5e:4x4 v5p:2x2x1 v6e:4x4"
  return (
      f"Known are {', '.join(CHIPS)} with a shape in chips: {examples} ..., up"
      " to 256 chips."
  )


def _check_libtpu() -> None:
  if importlib.util.find_spec("libtpu") is not None:
    return
  machine = f"{platform.system()} {platform.machine()}"
  if machine == "Linux x86_64":
    raise UserError(
        "Planning needs libtpu, the TPU compiler, which is not installed:"
        " pip install -e '.[plan]'."
    )
  raise UserError(
      "Planning needs libtpu, the TPU compiler, which exists for Linux x86_64"
      f" only; this is {machine}. Plan on such a machine or in a container."
  )
