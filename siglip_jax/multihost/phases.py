"""Phases of a run: the current one, and the time spent in each."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase under way."""

  name: str
  step: int
  since: float  # start time in seconds, on the clock of `Phases`


class Phases:
  """Times consecutive phases; other threads may read the current one.

  Args:
    name: name of the first phase, which starts at once.
    clock: returns the time in seconds.
  """

  def __init__(
      self, name: str = "start", clock: Callable[[], float] = time.monotonic
  ):
    self._clock, self._seconds = clock, {}
    self.current = Phase(name, 0, clock())

  @contextlib.contextmanager
  def __call__(self, name: str, step: int) -> Iterator[None]:
    """Runs the body of the `with` as phase `name` of a step."""
    self.current = Phase(name, step, self._clock())
    try:
      yield
    finally:
      spent = self._clock() - self.current.since
      self._seconds[name] = self._seconds.get(name, 0.0) + spent
      self.current = Phase("between", step, self._clock())

  def age(self, phase: Phase) -> float:
    """Returns the seconds since a phase began."""
    return self._clock() - phase.since

  def take(self) -> dict[str, float]:
    """Returns the seconds spent in each phase since the last call, by name."""
    taken, self._seconds = self._seconds, {}
    return taken
