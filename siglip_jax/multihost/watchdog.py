"""Ends a run that hangs, with every process's stacks and the late one's name.

A thread of each process tells the others what its process is doing, and looks
at what they tell. It ends the process when a phase takes longer than its limit,
when another process falls silent, or when another one ends.
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
  """Seconds that each phase may take; config.watchdog changes some."""

  start_seconds: float = 3600.0  # restoring or initialising, and compiling
  first_step_seconds: float = 3600.0  # compiling
  step_seconds: float = 600.0
  data_seconds: float = 600.0  # waiting for a batch
  eval_seconds: float = 7200.0
  save_seconds: float = 1800.0
  peer_seconds: float = 60.0  # in which a process must give a sign of life

  def of(self, phase: str) -> float:
    """The limit of a phase; there is none for what is not named above."""
    return getattr(self, f"{phase}_seconds", float("inf"))


class Watchdog:
  """Watches within a `with`.

  Args:
    phases: of this process.
    peers: all processes.
    **limits: as Limits.
  """

  def __init__(self, phases: Phases, peers: Peers, **limits: float):
    self._phases, self._peers = phases, peers
    self._limits = Limits(**limits)
    shortest = min(dataclasses.asdict(self._limits).values())
    self._tick = min(max(shortest / 10, 0.1), 2.0)
    self._stop = threading.Event()
    self._heard: dict[int, _Word] = {}
    self._thread = threading.Thread(
        target=self._watch, name="watchdog", daemon=True
    )

  def __enter__(self):
    """Starts watching."""
    self._thread.start()
    return self

  def __exit__(self, kind, e: BaseException | None, trace):
    """Stops, and lets the others know that this silence is no fault."""
    if self._peers.count > 1 and isinstance(e, Exception):
      self._blame(e)
    self._stop.set()
    self._thread.join()
    try:
      self._peers.tell("alive", {"phase": "done"})
    except TryAgain:
      pass  # Process 0 is done and gone.

  def _blame(self, e: Exception) -> None:
    """Waits until it is known whether `e` is but another process's end."""
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
        self._say(count)
        self._listen()
        found = self._peers.heard_end()
      except TryAgain as e:
        self._end(TRY_AGAIN, str(e))
      else:
        if found:
          self._end(*found)
        elif trouble := self._trouble():
          self._peers.tell_end(TRY_AGAIN, trouble)
          self._end(TRY_AGAIN, trouble)

  def _say(self, count: int) -> None:
    now = self._phases.current
    said = {"phase": now.name, "step": now.step, "count": count}
    self._peers.tell("alive", said | {"seconds": self._phases.age(now)})

  def _listen(self) -> None:
    """Words are dated by this process's clock, when they change."""
    for i, said in self._peers.hear("alive").items():
      if i not in self._heard or self._heard[i].said != said:
        self._heard[i] = _Word(said, time.monotonic())

  def _trouble(self) -> str | None:
    now = self._phases.current
    limit = self._limits.of(now.name)
    silent = {
        i
        for i, word in self._heard.items()
        if word.age() > self._limits.peer_seconds and not word.done()
    }
    if silent:
      return (
          f"{named(silent)} gave no sign of life for"
          f" {self._limits.peer_seconds:g} s; killed, or the host is gone."
      )
    if self._phases.age(now) <= limit:
      return None
    late = self._late()
    at_fault = f" {named(late)} hung." if late else ""
    return (
        f"The {now.name.replace('_', ' ')} phase of step {now.step} took longer"
        f" than config.watchdog.{now.name}_seconds = {limit:g}.{at_fault}"
    )

  def _late(self) -> set[int]:
    """Those at the least step; among equals, those that wait for data."""
    at = {i: w.said for i, w in self._heard.items() if not w.done()}
    if len(at) < 2:
      return set()
    least = min(said["step"] for said in at.values())
    late = {i for i, said in at.items() if said["step"] == least}
    waiting = {i for i in late if at[i]["phase"] == "data"}
    late = waiting or late
    return late if len(late) < len(at) else set()

  def _end(self, status: int, reason: str) -> None:
    """Prints what each process did, this one's stacks if it hung, and ends."""
    print(f"error: {reason}", *self._table(), sep="\n", file=sys.stderr)
    sys.stderr.flush()
    if status == TRY_AGAIN:
      faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    if self._peers.index == 0 and self._peers.count > 1:
      time.sleep(3 * self._tick)  # Process 0 takes the others' words with it.
    os._exit(status)

  def _table(self) -> list[str]:
    return [
        f"  worker {i}: {word.said['phase']} of step {word.said['step']} for"
        f" {word.said['seconds']:.1f} s, heard {word.age():.1f} s ago"
        for i, word in sorted(self._heard.items())
        if not word.done()
    ]


@dataclasses.dataclass(frozen=True)
class _Word:
  """What a process said, and when this one heard it."""

  said: dict
  heard: float

  def age(self) -> float:
    return time.monotonic() - self.heard

  def done(self) -> bool:
    return self.said["phase"] == "done"
