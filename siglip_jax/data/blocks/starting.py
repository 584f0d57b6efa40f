"""The start of reading ahead: where blocks go, and whether they fit there."""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import itertools
import math
from pathlib import Path
import tempfile
from typing import Any

from absl import logging

from siglip_jax.data.blocks import room
from siglip_jax.data.blocks.ahead import ReadAhead
from siglip_jax.data.blocks.folder import Folder
from siglip_jax.data.lanes import Window
from siglip_jax.errors import UserError

_MEMORY = Path("/dev/shm")  # a disk in memory
_SPARE = 1.1  # blocks differ in size
# Room for the windows that are read, and for those that follow: at the end of
# an epoch all lanes end theirs, and the next ones are half as long on average.
_AHEAD = 1.5
_LOOK = 10_000  # windows
_MOST = 1024  # threads
_LOWER = (
    "lower lanes, window or block_mb of config.data.order, or use more hosts"
)


@dataclasses.dataclass(frozen=True)
class _Need:
  """The blocks that are read at the same time, at most.

  Attributes:
    bytes: their size.
    windows: number of windows they are in.
    blocks: their number.
  """

  bytes: int
  windows: int
  blocks: int

  def __str__(self):
    size = self.bytes / max(self.blocks, 1) / 1e6
    return f"{self.windows} windows with {self.blocks} blocks of {size:.1f} MB"


def start(
    source,
    schedule: Iterable[Window],
    *,
    cache_dir: str | None = None,
    cache_gb: float | None = None,
    in_flight: int = 16,
    patience: float = 2.0,
) -> ReadAhead:
  """Starts to read blocks ahead, and lets the source read from them.

  Args:
    source: a source with `block_bytes`, `write_block` and `use_blocks`.
    schedule: the windows of this process, in the order of their first turn.
    cache_dir: a folder on a local disk, in which a folder is made for the
      blocks. By default /dev/shm, or the folder for temporary files if that has
      no room.
    cache_gb: limit on the blocks, in 1e9 bytes. By default 1.65 times what is
      read at once, or what there is.
    in_flight: number of blocks that are fetched at the same time.
    patience: seconds that a reader waits for a block, see `Folder`.

  Raises:
    UserError: the windows that are read at once do not fit, or a value is not
      one.
  """
  check(cache_gb, in_flight)
  windows, schedule = _first_windows(schedule)
  need = _need(source, windows)
  limit = None if cache_gb is None else int(cache_gb * 1e9)
  if limit is not None and limit < need.bytes:
    raise UserError(
        "config.data.cache_gb must hold the blocks that are read at once,"
        f" {need.bytes / 1e9:.3g} GB ({need}); got {cache_gb:g}. Raise it,"
        f" {_LOWER}."
    )
  claim, free = _claim(cache_dir, limit or need.bytes, need)
  if limit is None:
    most = min(_AHEAD * _SPARE * need.bytes, free / _SPARE)
    limit = max(need.bytes, int(most))
  logging.info("Blocks get %.3g GB in %s.", limit / 1e9, claim.path)
  if limit < _AHEAD * need.bytes:
    logging.warning(
        "Blocks of the data have %.3g GB in %s. Reading waits less with %.3g"
        " GB: name another config.data.cache_dir, or %s.",
        limit / 1e9,
        claim.path,
        _AHEAD * _SPARE * need.bytes / 1e9,
        _LOWER,
    )
  folder = Folder(claim.path, patience)
  source.use_blocks(folder)
  return ReadAhead(
      source,
      schedule,
      folder,
      max_bytes=limit,
      in_flight=in_flight,
      remove=claim.release,
  )


def check(cache_gb: object, in_flight: object) -> None:
  """Raises a UserError if a setting is not a number in its range."""
  if cache_gb is not None and not _in_range(cache_gb, int | float, math.inf):
    raise UserError(
        "config.data.cache_gb must be a positive number of GB, or None for the"
        f" default; got {cache_gb!r}."
    )
  if not _in_range(in_flight, int, _MOST):
    raise UserError(
        f"config.data.in_flight must be a whole number of reads from 1 to"
        f" {_MOST}; got {in_flight!r}."
    )


def _in_range(value: Any, kind: Any, most: float) -> bool:
  is_number = isinstance(value, kind) and not isinstance(value, bool)
  return is_number and 0 < value <= most


def _first_windows(
    schedule: Iterable[Window],
) -> tuple[list[Window], Iterator[Window]]:
  """Returns each lane's first windows, and the whole schedule.

  Lanes begin with windows of different lengths. When the longest one ends, the
  others are in a later window, which has its full length.
  """
  schedule = iter(schedule)
  windows: list[Window] = []
  end = None
  for window in itertools.islice(schedule, _LOOK):
    windows.append(window)
    if end is None and window.first != windows[0].first:
      end = max(w.last for w in windows)
    if end is not None and window.first > end:
      break
  return windows, itertools.chain(windows, schedule)


def _need(source, windows: list[Window]) -> _Need:
  """Returns what is needed at the first turn of one of the windows, at most."""
  sizes = {b: source.block_bytes(b) for w in windows for b in w.blocks}
  needs = [_Need(0, 0, 0)]
  for turn in {w.first for w in windows}:
    now = [w for w in windows if w.first <= turn <= w.last]
    blocks = {b for w in now for b in w.blocks}
    needs.append(_Need(sum(sizes[b] for b in blocks), len(now), len(blocks)))
  return max(needs, key=lambda need: need.bytes)


def _claim(
    cache_dir: str | None, wanted: int, need: _Need
) -> tuple[room.Claim, int]:
  """Returns a folder for the blocks, and the bytes that are free there.

  Raises:
    UserError: it does not have the bytes that are wanted.
  """
  places = [Path(cache_dir).expanduser()] if cache_dir else _places()
  free: dict[Path, int] = {}
  for place in places:
    room.remove_stale(place)
    free[place] = room.free(place)
    if free[place] >= wanted:
      return room.claim(place), free[place]
  known = ", ".join(f"{n / 1e9:.3g} GB in {p}" for p, n in free.items())
  raise UserError(
      f"Blocks of the data need {wanted / 1e9:.3g} GB on a local disk"
      f" ({need.bytes / 1e9:.3g} GB are read at once: {need}); free are"
      f" {known}. Name a folder with room as config.data.cache_dir, lower"
      f" config.data.cache_gb, {_LOWER}."
  )


def _places() -> list[Path]:
  places = [_MEMORY] if _MEMORY.is_dir() else []
  return [*places, Path(tempfile.gettempdir())]
