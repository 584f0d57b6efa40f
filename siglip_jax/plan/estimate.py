"""Memory and step time of a run on a TPU slice, from its compiled program.

The real TPU compiler compiles the train step that `main` runs, for devices that
need not exist. Memory is the compiler's own figure. Step time is an estimate:
the compiler's cycles for each op, plus kernels by arithmetic, without waiting
for the network or for data.
"""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import math
import re
from typing import Any

import jax
from jax.extend import core
import ml_collections
import numpy as np

from siglip_jax import sharding
from siglip_jax.plan import chips
from siglip_jax.plan import hlo
from siglip_jax.plan import host
from siglip_jax.plan import topology
from siglip_jax.run import Run

_SECONDS_A_DAY = 86_400
# "memory required for HLO temporaries (1.5G) exceeds available HBM (1.2G)"
_TOO_LARGE = re.compile(r"\((\d+(?:\.\d+)?)([KMGT]?)\) exceeds available HBM")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The plan of a run on a slice. Bytes are per device, if not of a host.

  If the program does not fit, times and rates are None, and kernels and
  collectives are empty.

  Attributes:
    topology: name of the slice.
    chips: number of chips in the slice.
    global_batch: number of examples per step.
    microbatch: number of examples encoded at a time; 0 for the whole batch.
    remat: the model's remat policy.
    mesh: sizes of the mesh axes.
    fits: whether the program fits in HBM.
    peak_hbm_bytes: HBM that the program needs.
    hbm_bytes: HBM that the device has.
    parts: the peak, split into parameters, optimizer, inputs, and temporaries
      (everything else).
    compiled_seconds: time of the ops for which the compiler has an estimate.
    kernel_seconds: time of the Pallas kernels: bytes over bandwidth or padded
      matmuls over the peak rate, whichever is longer.
    kernels: for each kernel its name, its calls per step and both times.
    step_seconds_estimate: compiled_seconds + kernel_seconds.
    examples_per_second_estimate: examples per second of the whole slice.
    model_flop_utilisation: operations of the model's matmuls as written,
      without recomputation, over the slice's peak in the step's time.
    days_to_finish_estimate: time of all steps of the config, days.
    collectives: by name, the number per step and the bytes of their results.
    versions: versions of the compilers.
    hosts: number of hosts of the slice.
    host_bytes: memory of a host; None if it is not known.
    host_data_bytes: memory of a host that the data need.
    host_data_parts: that memory, split into batches, worker processes, caches
      and blocks that are read ahead (`plan.host.Need`).
    host_images_per_second: images that a host must read and decode in a second,
      so that the step never waits.
  """

  topology: str
  chips: int
  global_batch: int
  microbatch: int
  remat: str
  mesh: dict[str, int]
  fits: bool
  peak_hbm_bytes: int
  hbm_bytes: int
  parts: dict[str, int]
  compiled_seconds: float | None = None
  kernel_seconds: float | None = None
  kernels: list[dict] = dataclasses.field(default_factory=list)
  step_seconds_estimate: float | None = None
  examples_per_second_estimate: float | None = None
  model_flop_utilisation: float | None = None
  days_to_finish_estimate: float | None = None
  collectives: dict[str, dict[str, int]] = dataclasses.field(
      default_factory=dict
  )
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  hosts: int = 1
  host_bytes: int | None = None
  host_data_bytes: int = 0
  host_data_parts: dict[str, int] = dataclasses.field(default_factory=dict)
  host_images_per_second: float | None = None

  @property
  def host_fits(self) -> bool:
    """Whether the data fit in a host's memory; True if that is not known."""
    return self.host_bytes is None or self.host_data_bytes <= self.host_bytes


def with_data(plan: Plan, need: host.Need) -> Plan:
  """Returns a plan with what the data need on each host."""
  rate = plan.examples_per_second_estimate
  return dataclasses.replace(
      plan,
      hosts=need.hosts,
      host_bytes=need.host_bytes,
      host_data_bytes=sum(need.parts.values()),
      host_data_parts=need.parts,
      host_images_per_second=None if rate is None else rate / need.hosts,
  )


def lower(config: ml_collections.ConfigDict, where: topology.Slice):
  """Lowers a config's train step for a slice, which takes seconds.

  Args:
    config: a validated config.
    where: the slice.

  Returns:
    The run, and its lowered train step for `compile_plan`.

  Raises:
    UserError: the batch or the mesh does not divide over the slice.
  """
  mesh = sharding.make_mesh(**config.mesh, devices=where.devices)
  run = Run(config, mesh)
  return run, run.train_step.lower(run.state_shapes, run.batch_shapes())


def compile_plan(
    run: Run, lowered: jax.stages.Lowered, where: topology.Slice
) -> Plan:
  """Compiles what `lower` returns, which takes minutes, and plans from it."""
  chip = where.chip
  state = run.state_shapes
  parts = {
      "parameters": _shard_bytes(state.params),
      "optimizer": _shard_bytes(state.opt_state),
      "inputs": _shard_bytes(run.batch_shapes()),
  }
  shared: dict[str, Any] = dict(
      topology=where.name,
      chips=where.chips,
      global_batch=run.config.batch_size,
      microbatch=run.config.microbatch,
      remat=run.model.remat,
      mesh={k: int(v) for k, v in run.mesh.shape.items()},
      hbm_bytes=chip.hbm,
      versions=versions(),
  )
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    match = _TOO_LARGE.search(str(e))
    if match is None:
      raise
    peak = int(float(match[1]) * _UNITS[match[2]])
    return Plan(fits=False, peak_hbm_bytes=peak, parts=parts, **shared)
  memory, text = compiled.memory_analysis(), compiled.as_text()
  assert memory is not None and text is not None, "the TPU compiler has both"
  peak = memory.peak_memory_in_bytes
  parts["temporaries"] = peak - sum(parts.values())
  program = hlo.read(text)
  compiled_seconds = program.cycles / chip.clock
  kernels = [_kernel(k, chip) for k in program.kernels]
  kernel_seconds = sum(max(k["seconds"].values()) for k in kernels)
  seconds = compiled_seconds + kernel_seconds
  peak_rate = chip.flops * len(where.devices)
  return Plan(
      fits=True,
      peak_hbm_bytes=peak,
      parts=parts,
      compiled_seconds=compiled_seconds,
      kernel_seconds=kernel_seconds,
      kernels=kernels,
      step_seconds_estimate=seconds,
      examples_per_second_estimate=run.config.batch_size / seconds,
      model_flop_utilisation=model_flops(run) / peak_rate / seconds,
      days_to_finish_estimate=seconds * run.config.total_steps / _SECONDS_A_DAY,
      collectives={
          k: dataclasses.asdict(v) for k, v in program.collectives.items()
      },
      **shared,
  )


def versions() -> dict[str, str]:
  """Returns the versions of jax and libtpu, which compile programs."""
  return {n: importlib.metadata.version(n) for n in ("jax", "libtpu")}


def model_flops(run: Run) -> int:
  """Returns the operations of a step's matmuls, without recomputation.

  A tower that trains costs three times its forward pass, a locked tower costs
  its forward pass once, and an absent tower nothing. The loss costs three times
  its matrix of logits.
  """
  model = dataclasses.replace(run.model, attention="xla", remat="none")
  batch = run.batch_shapes()
  params = jax.tree.map(_unsharded, run.state_shapes.params)
  side = run.config.image_size
  image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  text = jax.ShapeDtypeStruct((1, *batch["text"].shape[1:]), np.int32)
  towers: list[tuple[str, Any, Any]] = [("txt", model.encode_text, text)]
  if not model.embedded:
    towers.append(("img", model.encode_image, image))
  total = 0
  for tower, encode, x in towers:
    trains = any(n.startswith(f"{tower}/") for n in run.optimizer.trainable)
    forward = _matmul_flops(jax.make_jaxpr(encode)(params, x).jaxpr)
    total += forward * (3 if trains else 1) * run.config.batch_size
  width = jax.eval_shape(model.encode_text, params, text).shape[-1]
  return total + 3 * 2 * run.config.batch_size**2 * width


def _matmul_flops(jaxpr) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    out = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      total += 2 * out * math.prod(shape[i] for i in contracted)
    elif eqn.primitive.name == "conv_general_dilated":
      kernel = eqn.invars[1].aval
      features = eqn.params["dimension_numbers"].rhs_spec[0]
      total += 2 * out * kernel.size // kernel.shape[features]
    for inner in core.jaxprs_in_params(eqn.params):
      total += times * _matmul_flops(inner)
  return total


def _shard_bytes(shapes) -> int:
  """Returns the bytes of one device's shards."""
  return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(shapes)
  )


def _unsharded(x) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _kernel(kernel: hlo.Kernel, chip: chips.Chip) -> dict:
  return {
      "name": kernel.name,
      "times": kernel.times,
      "seconds": {
          "bytes over bandwidth": kernel.times * kernel.bytes / chip.bandwidth,
          "matmuls over peak": kernel.times * kernel.flops / chip.flops,
      },
  }


def advice(plan: Plan) -> Sequence[str]:
  """Returns config changes that reduce memory, the cheapest first."""
  changes = []
  rows = plan.global_batch // math.prod(
      plan.mesh[a] for a in sharding.BATCH_AXES
  )
  microbatch = plan.microbatch or plan.global_batch
  if rows > 1 and microbatch > plan.global_batch // rows:
    changes.append(
        "config.microbatch: fewer examples at a time, e.g."
        f" {microbatch // 2}; gradients stay those of the whole batch"
    )
  if plan.remat != "full":
    changes.append('config.model.remat="full": keep only the inputs of blocks')
  state_bytes = plan.parts["parameters"] + plan.parts["optimizer"]
  if plan.mesh["fsdp"] == 1 and state_bytes > plan.hbm_bytes / 8:
    changes.append(
        f"config.mesh.fsdp={math.prod(plan.mesh.values())}: share parameters"
        f" and optimizer ({state_bytes / 2**30:.1f} GiB a device) among the"
        " devices"
    )
  changes.append("a larger slice, or `--search`, which tries all of these")
  return changes
