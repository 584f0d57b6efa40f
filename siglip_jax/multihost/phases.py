"""What a run is doing, since when, and how long each kind of work took."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Phase:
  """One piece of work under way."""

  name: str
  step: int
  since: float  # on the clock


class Phases:
  """Times phases that follow each other; another thread may look on.

  Args:
    name: of the phase that is under way from the beginning.
    clock: seconds.
  """

  def __init__(
      self, name: str = "start", clock: Callable[[], float] = time.monotonic
  ):
    self._clock, self._seconds = clock, {}
    self.current = Phase(name, 0, clock())

  @contextlib.contextmanager
  def __call__(self, name: str, step: int) -> Iterator[None]:
    """The body of the `with` is phase `name` of a step."""
    self.current = Phase(name, step, self._clock())
    try:
      yield
    finally:
      spent = self._clock() - self.current.since
      self._seconds[name] = self._seconds.get(name, 0.0) + spent
      self.current = Phase("between", step, self._clock())

  def age(self, phase: Phase) -> float:
    """Seconds since a phase began."""
    return self._clock() - phase.since

  def take(self) -> dict[str, float]:
    """Seconds of each phase since the last call, by name."""
    taken, self._seconds = self._seconds, {}
    return taken
