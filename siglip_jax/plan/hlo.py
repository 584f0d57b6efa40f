"""The TPU compiler's estimates of a program, read from its optimised HLO text.

The text has an estimate of cycles for each op that XLA compiles itself. `read`
sums the estimates over the program, counting a loop body once per iteration.
Custom calls (Pallas kernels) have no such estimate and are listed with the cost
that they state themselves.
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
  """Collectives of one kind.

  Attributes:
    count: number per step.
    bytes: bytes of their results per step.
  """

  count: int = 0
  bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """A custom call.

  Attributes:
    name: name of the kernel.
    times: number of calls per step.
    flops: operations of one call.
    bytes: bytes that one call moves.
  """

  name: str
  times: int
  flops: int
  bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """The totals of one execution of a program on one device.

  Attributes:
    cycles: estimate for all ops except kernels and network waits.
    collectives: traffic by kind; see `COLLECTIVES`.
    kernels: custom calls to the TPU, in program order.
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
    if match := _CYCLES.search(op.rest):
      cycles += times * int(match[1])
    kind = op.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      sums = collectives.get(kind, Traffic())
      collectives[kind] = Traffic(
          count=sums.count + times, bytes=sums.bytes + times * _result_bytes(op)
      )
    if op.opcode == "custom-call" and '"tpu_custom_call"' in op.rest:
      kernels.append(_kernel(op, times))
  return Program(cycles=cycles, collectives=collectives, kernels=kernels)


def _parse(text: str) -> tuple[dict[str, list[_Op]], str]:
  computations: dict[str, list[_Op]] = {}
  entry, ops = "", []
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      ops = computations[match[2]] = []
      entry = match[2] if match[1] else entry
    elif line.startswith("  ") and " = " in line:
      ops.append(_op(*line.split(" = ", 1)))
  return computations, entry


def _op(name: str, text: str) -> _Op:
  """Parses "type opcode(operands), attributes"; tuple types contain spaces."""
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
  """Yields every op with its number of executions; a fusion is one op."""
  for op in computations.get(name, ()):
    yield op, times
    # Bodies of fusions and reducers are skipped: the estimate is on the op that
    # calls them.
    if op.opcode not in ("while", "call", "conditional", "async-start"):
      continue
    inner = times * (_trips(computations, op) if op.opcode == "while" else 1)
    for called in _CALLED.findall(op.rest):
      for callee in called.split(", "):
        yield from _walk(computations, callee.lstrip("%"), inner)


def _trips(computations, loop: _Op) -> int:
  """Returns the trip count of a loop, whose counter starts at 0.

  Without a known count, this is the largest integer in the loop's condition.
  """
  if known := _TRIPS.search(loop.rest):
    return int(known[1])
  condition = _CONDITION.search(loop.rest)
  assert condition is not None, loop.rest[:200]
  limits = [
      int(match[1])
      for op in computations[condition[1]]
      for match in [
          _INTEGER.match(f"{op.type} {op.opcode}({op.rest.split(')')[0]})")
      ]
      if match
  ]
  return max(limits, default=1)


def _kernel(op: _Op, times: int) -> Kernel:
  def number(key: str) -> int:
    match = re.search(rf'"{key}":"?(\d+)', op.rest)
    return int(match[1]) if match else 0

  return Kernel(
      name=re.sub(r"\.\d+$", "", op.name),  # drops the suffix of duplicates
      times=times,
      flops=number("flops"),
      bytes=number("bytes_accessed"),
  )


def _result_bytes(op: _Op) -> int:
  """Returns the bytes of a collective's results."""
  sizes = [_array_bytes(*match) for match in _ARRAY.findall(op.type)]
  if op.opcode.endswith("-start") and op.type.startswith("("):
    # The tuple is (operands..., results..., and the contexts of a permute).
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
