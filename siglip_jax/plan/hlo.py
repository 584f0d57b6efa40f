"""What the TPU compiler says of a program, read off its optimised HLO text.

The text carries an estimate of cycles for each op that XLA compiles itself.
`read` sums it over the program, loop bodies as often as they run. Custom calls
(Pallas kernels) have no such estimate and are listed with their own cost.
"""

from collections.abc import Iterator
import dataclasses
import re

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(
    r"(?:to_apply|body|calls|branch_computations|called_computations)="
    r"\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INTEGER = re.compile(r"[su]32\[\][^ ]* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """Collectives of one kind: how many a step, and bytes of their results."""

  count: int = 0
  bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """A custom call: its name, how often a step runs it, its cost each time."""

  name: str
  times: int
  flops: int
  bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Sums over one run of a program on one device.

  Attributes:
    cycles: estimate for all ops but kernels and waiting for the network.
    collectives: by name; see `COLLECTIVES`.
    kernels: custom calls to the TPU, in order.
  """

  cycles: int
  collectives: dict[str, Traffic]
  kernels: list[Kernel]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Op:
  name: str
  type: str
  opcode: str
  rest: str


def read(text: str) -> Program:
  """Reads the HLO text of a compiled program (`compiled.as_text()`)."""
  computations, entry = _parse(text)
  cycles, collectives, kernels = 0, {}, []
  for op, times in _walk(computations, entry, 1):
    if found := _CYCLES.search(op.rest):
      cycles += times * int(found[1])
    kind = op.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      old = collectives.get(kind, Traffic())
      collectives[kind] = Traffic(
          count=old.count + times, bytes=old.bytes + times * _result_bytes(op)
      )
    if op.opcode == "custom-call" and '"tpu_custom_call"' in op.rest:
      kernels.append(_kernel(op, times))
  return Program(cycles=cycles, collectives=collectives, kernels=kernels)


def _parse(text: str) -> tuple[dict[str, list[_Op]], str]:
  computations: dict[str, list[_Op]] = {}
  entry, ops = "", []
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      ops = computations[found[2]] = []
      entry = found[2] if found[1] else entry
    elif line.startswith("  ") and " = " in line:
      ops.append(_op(*line.split(" = ", 1)))
  return computations, entry


def _op(name: str, text: str) -> _Op:
  """Splits "type opcode(operands), attributes"; a tuple type has spaces."""
  name = name.removeprefix("  ROOT ").strip().removeprefix("%")
  end = _closing(text) if text.startswith("(") else text.index(" ")
  kind, rest = text[:end], text[end:].lstrip()
  opcode, _, rest = rest.partition("(")
  return _Op(name=name, type=kind, opcode=opcode, rest=rest)


def _closing(text: str) -> int:
  depth = 0
  for i, c in enumerate(text):
    depth += (c == "(") - (c == ")")
    if depth == 0:
      return i + 1
  return len(text)


def _walk(computations, name: str, times: int) -> Iterator[tuple[_Op, int]]:
  """Every op that is run as such, and how often; fusions are one op."""
  for op in computations.get(name, ()):
    yield op, times
    # A fusion's estimate is on the fusion; a reducer's is on its op.
    if op.opcode not in ("while", "call", "conditional", "async-start"):
      continue
    inner = times * (_trips(computations, op) if op.opcode == "while" else 1)
    for called in _CALLED.findall(op.rest):
      for callee in called.split(", "):
        yield from _walk(computations, callee.lstrip("%"), inner)


def _trips(computations, loop: _Op) -> int:
  """How often a loop runs: what its counter, from 0, is compared with."""
  if known := _TRIPS.search(loop.rest):
    return int(known[1])
  condition = _CONDITION.search(loop.rest)
  assert condition is not None, loop.rest[:200]
  limits = [
      int(found[1])
      for op in computations[condition[1]]
      for found in [
          _INTEGER.match(f"{op.type} {op.opcode}({op.rest.split(')')[0]})")
      ]
      if found
  ]
  return max(limits, default=1)


def _kernel(op: _Op, times: int) -> Kernel:
  def number(key: str) -> int:
    found = re.search(rf'"{key}":"?(\d+)', op.rest)
    return int(found[1]) if found else 0

  return Kernel(
      name=re.sub(r"\.\d+$", "", op.name),  # numbered where there are several
      times=times,
      flops=number("flops"),
      bytes=number("bytes_accessed"),
  )


def _result_bytes(op: _Op) -> int:
  """Bytes of the arrays a collective makes; of a started one, once."""
  sizes = [_array_bytes(*found) for found in _ARRAY.findall(op.type)]
  if op.opcode.endswith("-start") and op.type.startswith("("):
    # (operands..., results..., and contexts for a permute)
    sizes = [s for s in sizes if s > 4]
    return max(sum(sizes) // 2, max(sizes, default=0))
  return sum(sizes)


def _array_bytes(dtype: str, shape: str) -> int:
  count = 1
  for size in filter(None, shape.split(",")):
    count *= int(size)
  digits = re.search(r"\d+", dtype)
  bits = _BITS.get(dtype) or (int(digits[0]) if digits else 0)
  return count * bits // 8
