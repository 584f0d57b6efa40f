"""Ends a run that hangs, with every process's stacks and the late one's name.

In each process a thread reports to the other processes what its own is doing,
and reads their reports. It ends the process when a phase takes longer than its
limit, when another process falls silent, or when another process ends.
"""

import dataclasses
import faulthandler
import os
import sys
import threading
import time

from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.messages import named
from siglip_jax.multihost.phases import Phases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Time limits of the phases, in seconds; config.watchdog overrides them."""

  start_seconds: float = 3600.0  # restoring or initialising, and compiling
  first_step_seconds: float = 3600.0  # compiling
  step_seconds: float = 600.0
  data_seconds: float = 600.0  # waiting for a batch
  eval_seconds: float = 7200.0
  save_seconds: float = 1800.0
  peer_seconds: float = 60.0  # longest silence of a process

  def of(self, phase: str) -> float:
    """Returns the limit of a phase; infinite for a phase not named above."""
    return getattr(self, f"{phase}_seconds", float("inf"))


class Watchdog:
  """Watches the run inside a `with` block.

  Args:
    phases: this process's phases.
    peers: all processes.
    **limits: fields of `Limits` that differ from the defaults.
  """

  def __init__(self, phases: Phases, peers: Peers, **limits: float):
    self._phases, self._peers = phases, peers
    self._limits = Limits(**limits)
    shortest = min(dataclasses.asdict(self._limits).values())
    self._tick = min(max(shortest / 10, 0.1), 2.0)
    self._stop = threading.Event()
    self._reports: dict[int, _Report] = {}
    self._thread = threading.Thread(
        target=self._watch, name="watchdog", daemon=True
    )

  def __enter__(self):
    """Starts watching."""
    self._thread.start()
    return self

  def __exit__(self, kind, e: BaseException | None, trace):
    """Stops, and tells the others that this silence is not a failure."""
    if self._peers.count > 1 and isinstance(e, Exception):
      self._await_cause(e)
    self._stop.set()
    self._thread.join()
    try:
      self._peers.tell("alive", {"phase": "done"})
    except TryAgain:
      pass  # Process 0 has finished and exited.

  def _await_cause(self, e: Exception) -> None:
    """Waits long enough to learn whether another process's end caused `e`.

    If it did, the watching thread meanwhile ends this process.
    """
    if isinstance(e, UserError | TryAgain):
      return
    first = (str(e).strip().splitlines() or [""])[0]
    print(
        f"{type(e).__name__}: {first}\nWaiting for"
        f" {self._limits.peer_seconds:g} s to see whether another worker fell"
        " silent.",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(self._limits.peer_seconds + 5 * self._tick)

  def _watch(self) -> None:
    count = 0
    while not self._stop.wait(self._tick):
      count += 1
      try:
        self._publish(count)
        self._collect()
        end = self._peers.heard_end()
      except TryAgain as e:
        self._end(TRY_AGAIN, str(e))
      else:
        if end:
          self._end(*end)
        elif trouble := self._diagnose():
          self._peers.tell_end(TRY_AGAIN, trouble)
          self._end(TRY_AGAIN, trouble)

  def _publish(self, count: int) -> None:
    now = self._phases.current
    values = {"phase": now.name, "step": now.step, "count": count}
    self._peers.tell("alive", values | {"seconds": self._phases.age(now)})

  def _collect(self) -> None:
    """Reads all reports; a changed one is dated by this process's clock."""
    for i, values in self._peers.hear("alive").items():
      if i not in self._reports or self._reports[i].values != values:
        self._reports[i] = _Report(values, time.monotonic())

  def _diagnose(self) -> str | None:
    now = self._phases.current
    limit = self._limits.of(now.name)
    silent = {
        i
        for i, report in self._reports.items()
        if report.age() > self._limits.peer_seconds and not report.done()
    }
    if silent:
      return (
          f"{named(silent)} gave no sign of life for"
          f" {self._limits.peer_seconds:g} s; killed, or the host is gone."
      )
    if self._phases.age(now) <= limit:
      return None
    late = self._late_processes()
    at_fault = f" {named(late)} hung." if late else ""
    return (
        f"The {now.name.replace('_', ' ')} phase of step {now.step} took longer"
        f" than config.watchdog.{now.name}_seconds = {limit:g}.{at_fault}"
    )

  def _late_processes(self) -> set[int]:
    """Returns the processes at the lowest step.

    If some of them wait for data, returns only those. If all processes would
    count as late, returns none.
    """
    active = {i: r.values for i, r in self._reports.items() if not r.done()}
    if len(active) < 2:
      return set()
    lowest = min(values["step"] for values in active.values())
    late = {i for i, values in active.items() if values["step"] == lowest}
    waiting = {i for i in late if active[i]["phase"] == "data"}
    late = waiting or late
    return late if len(late) < len(active) else set()

  def _end(self, status: int, reason: str) -> None:
    """Prints the reason, all reports and this process's stacks; then exits.

    Args:
      status: exit status; the stacks are printed only if it is TRY_AGAIN.
      reason: why the run ends.
    """
    print(f"error: {reason}", *self._table(), sep="\n", file=sys.stderr)
    sys.stderr.flush()
    if status == TRY_AGAIN:
      faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    if self._peers.index == 0 and self._peers.count > 1:
      # The messages end with process 0, so let the others read them first.
      time.sleep(3 * self._tick)
    os._exit(status)

  def _table(self) -> list[str]:
    return [
        f"  worker {i}: {r.values['phase']} of step {r.values['step']} for"
        f" {r.values['seconds']:.1f} s, heard {r.age():.1f} s ago"
        for i, r in sorted(self._reports.items())
        if not r.done()
    ]


@dataclasses.dataclass(frozen=True)
class _Report:
  """A process's last report, and when this process received it."""

  values: dict
  received: float

  def age(self) -> float:
    return time.monotonic() - self.received

  def done(self) -> bool:
    return self.values["phase"] == "done"
