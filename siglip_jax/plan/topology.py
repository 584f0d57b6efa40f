"""TPU slices by name, for compiling without a TPU.

The compiler is libtpu, which pip installs on Linux x86-64.
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
from siglip_jax.plan import chips as chips_lib

# Shapes of small slices, by number of axes.
_EXAMPLES = {2: ("2x2", "4x4"), 3: ("2x2x1", "2x2x4")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
  """A slice that programs can be compiled for.

  Attributes:
    name: name of the slice, such as "v4:2x2x1".
    chip: facts of the generation.
    chips: number of chips.
    devices: the devices to compile for, which need not exist.
  """

  name: str
  chip: chips_lib.Chip
  chips: int
  devices: Sequence[jax.Device]


def get(name: str) -> Slice:
  """Returns the slice with a name like "v4:2x2x1".

  Raises:
    UserError: the slice is unknown, or libtpu is not installed.
  """
  generation, _, shape = name.partition(":")
  sizes = shape.split("x")
  known = generation in chips_lib.plannable()
  if not known or not re.fullmatch(r"\d+(x\d+)*", shape):
    raise UserError(f"Unknown topology {name!r}. {_known()}")
  chip = chips_lib.CHIPS[generation]
  chips = math.prod(map(int, sizes))
  if len(sizes) != chip.axes or not 1 <= chips <= chip.largest:
    raise UserError(
        f"A {generation} slice has {chip.axes} sizes and up to"
        f" {chip.largest} chips; got {name!r}. {_known()}"
    )
  _check_libtpu()
  # Without a TPU, libtpu must not look for one, nor lock out other processes.
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
  names = chips_lib.plannable()
  examples = [
      f"{name}:{shape}"
      for name in names
      for shape in _EXAMPLES[chips_lib.CHIPS[name].axes]
  ]
  return (
      f"Known are {', '.join(names)} with a shape in chips, such as"
      f" {' '.join(examples)}."
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
