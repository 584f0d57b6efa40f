"""The members of a tar grouped to samples.

A sample is all members of one key: their path up to the first dot of the base
name. They need not lie side by side. What follows that dot is the suffix.
"""

from array import array
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np

from siglip_jax.data.tars.scan import BLOCK
from siglip_jax.data.tars.scan import Member
from siglip_jax.data.tars.scan import Notes
from siglip_jax.data.tars.table import Layout
from siglip_jax.data.tars.table import Table

_MOST_PARTS = 32  # of a sample
_MOST_LAYOUTS = 255  # of a shard; their numbers are bytes
_MOST_SUFFIXES = 1000  # of a shard
_LONGEST_SUFFIX = 64
_LARGEST = 1 << 31  # bytes of a part
_MOST_BLOCKS = 1 << 32  # 2 TB, of a shard
# A state with too many parts stays in itself, whatever comes.
_CROWDED = 0
_EMPTY = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """The samples of a shard that have an image.

  Attributes:
    table: their places.
    keys: their keys.
    rows: the number of each one among the samples that `at_member` saw.
    suffixes: suffix -> number of members, of all members.
  """

  table: Table
  keys: Sequence[bytes]
  rows: Sequence[int]
  suffixes: dict[str, int]


def group(
    members: Iterable[Member],
    notes: Notes,
    image: Sequence[str],
    at_member: Callable[[int, str, int, int], bool] | None = None,
) -> Samples:
  """Returns the samples of a walk through a tar.

  A key that comes again, with a suffix that its sample has, begins another
  sample. Members of such a key that do not follow their sample at once are of
  an unknown sample, and make one of their own.

  Args:
    members: the walk.
    notes: what is left out is counted there.
    image: suffixes of images.
    at_member: called with the number of a sample and the suffix, offset and
      size of each of its parts, as they come. Returns whether the part spoils
      its sample, which is left out.
  """
  grouping = _Grouping(notes)
  grouping.add(members, at_member)
  return grouping.samples(image)


class _Grouping:
  """Samples as they come together.

  What a sample has so far is a state, one number: the path to it in a tree of
  all orders of suffixes that were met. So a member costs one look-up, which
  also tells whether the sample has that suffix already.
  """

  def __init__(self, notes: Notes):
    self._notes = notes
    self._suffixes: dict[bytes, int] = {}  # -> 2 * number
    self._names: list[str] = []
    self._seen: list[int] = []
    self._numbers: dict[str, int] = {}
    self._paths: list[tuple[int, ...]] = [(), ()]
    self._moves: list[dict[int, int]] = [{}, {}]
    self._keys: list[bytes] = []
    self._states: list[int] = []
    self._spoiled: set[int] = set()
    # One entry a member: its sample, header, content and size.
    self._owner, self._start = array("q"), array("q")
    self._offset, self._size = array("q"), array("q")

  def add(
      self,
      members: Iterable[Member],
      at_member: Callable[[int, str, int, int], bool] | None,
  ) -> None:
    """Adds members in their order."""
    keys, states, moves = self._keys, self._states, self._moves
    suffixes, seen = self._suffixes, self._seen
    latest: dict[bytes, int] = {}  # key -> its sample
    repeated: set[bytes] = set()
    last, number = None, -1
    for name, start, offset, size in members:
      if name[0] in b"./" or b".." in name or name.startswith(b"__MACOSX"):
        name = self._usable(name)
      slash = name.rfind(b"/") + 1
      dot = name.find(b".", slash)
      if dot <= slash:
        self._nameless(name, slash)
        continue
      code = suffixes.get(name[dot + 1 :])
      if code is None:
        code = self._code(name[dot + 1 :])
      if code < 0 or size >= _LARGEST or offset // BLOCK >= _MOST_BLOCKS:
        self._too_much(code)
        continue
      seen[code >> 1] += 1
      if not size:
        code |= 1
      key = name[:dot]
      step = None
      if key == last or (key not in repeated and key in latest):
        number = latest[key]
        step = moves[states[number]].get(code)
        if step is None:
          step = self._move(states[number], code)
      if step is None or step < 0:
        if key in latest:
          repeated.add(key)
          self._notes.counts["keys that come again"] += 1
        number = latest[key] = len(keys)
        keys.append(key)
        states.append(_EMPTY)
        step = moves[_EMPTY].get(code)
        if step is None:
          step = self._move(_EMPTY, code)
      states[number] = step
      last = key
      self._owner.append(number)
      self._start.append(start)
      self._offset.append(offset)
      self._size.append(size)
      if at_member and at_member(number, self._names[code >> 1], offset, size):
        self._spoiled.add(number)

  def _usable(self, name: bytes) -> bytes:
    """Returns a name without "./", or b"" with a note if it is left out."""
    while name.startswith(b"./"):
      name = name[2:].lstrip(b"/")
    parts = name.split(b"/")
    if name.startswith(b"/"):
      self._notes.counts["absolute names"] += 1
    elif b".." in parts:
      self._notes.counts["names with '..'"] += 1
    elif parts[0] == b"__MACOSX":
      self._notes.counts["files of macOS"] += 1
    else:
      return name
    return b""

  def _nameless(self, name: bytes, slash: int) -> None:
    """Counts a name that does not have both a key and a suffix."""
    if name.startswith(b"._", slash):
      self._notes.counts["files of macOS"] += 1
    elif name:
      self._notes.counts["names without a key or a suffix"] += 1

  def _code(self, suffix: bytes) -> int:
    """Returns twice the number of a new suffix; -1 if there are too many."""
    text = suffix.decode("utf-8", "backslashreplace").lower()
    number = self._numbers.get(text)
    if number is None:
      if len(self._names) >= _MOST_SUFFIXES or len(text) > _LONGEST_SUFFIX:
        return -1
      number = self._numbers[text] = len(self._names)
      self._names.append(text)
      self._seen.append(0)
    if len(self._suffixes) < 4 * _MOST_SUFFIXES:  # all ways to write them
      self._suffixes[suffix] = 2 * number
    return 2 * number

  def _too_much(self, code: int) -> None:
    kind = "suffixes that are too many or too long"
    self._notes.counts[kind if code < 0 else "parts over 2 GB"] += 1

  def _move(self, state: int, code: int) -> int:
    """Returns the state after another part; -1 if the sample has its suffix."""
    path = self._paths[state]
    if state == _CROWDED or len(path) >= _MOST_PARTS:
      step = _CROWDED
    elif any(code >> 1 == other >> 1 for other in path):
      step = -1
    else:
      step = len(self._paths)
      self._paths.append((*path, code))
      self._moves.append({})
    self._moves[state][code] = step
    return step

  def samples(self, image: Sequence[str]) -> Samples:
    """Returns the samples that have an image."""
    states = np.array(self._states, np.int64)
    layouts: list[Layout] = []
    layout_of = np.full(len(self._paths), -1)
    for state in np.unique(states).tolist():
      layout_of[state] = self._layout(
          state, image, layouts, int(np.sum(states == state))
      )
    chosen = layout_of[states] >= 0
    chosen[list(self._spoiled)] = False
    rows = np.flatnonzero(chosen)
    keys = [self._keys[row] for row in rows.tolist()]
    hashes = [hashlib.sha256(key).digest()[0] for key in keys]
    width = max(map(len, layouts), default=0)
    start, sizes, extra = self._places(states, rows, width)
    table = Table(
        layouts=layouts,
        layout=layout_of[states[rows]].astype(np.uint8),
        start=start,
        sizes=sizes,
        extra=extra if extra.any() else None,
        validation=np.array(hashes, np.int64) < 256 / 20,
    )
    return Samples(
        table=table,
        keys=keys,
        rows=rows.tolist(),
        suffixes=dict(zip(self._names, self._seen, strict=True)),
    )

  def _layout(
      self,
      state: int,
      image: Sequence[str],
      layouts: list[Layout],
      samples: int,
  ) -> int:
    """Returns the number of a state's layout; -1, with a note, if left out."""
    path = self._paths[state]
    layout = tuple(self._names[code >> 1] for code in path if not code & 1)
    reason = ""
    if state == _CROWDED:
      reason = f"samples of more than {_MOST_PARTS} parts"
    elif not set(layout) & set(image):
      empty = {self._names[code >> 1] for code in path if code & 1}
      reason = "samples without an image"
      if empty & set(image):
        reason = "samples with an image of zero bytes"
    elif layout not in layouts and len(layouts) == _MOST_LAYOUTS:
      reason = f"samples of further layouts than {_MOST_LAYOUTS}"
    if reason:
      self._notes.counts[reason] += samples
      return -1
    if layout not in layouts:
      layouts.append(layout)
    return layouts.index(layout)

  def _places(self, states: np.ndarray, rows: np.ndarray, width: int):
    """Returns start, sizes and extra of `Table` for some samples."""
    owner = np.frombuffer(self._owner, np.int64)
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(len(states)))
    header = np.frombuffer(self._start, np.int64)[order] // BLOCK
    place = np.frombuffer(self._offset, np.int64)[order] // BLOCK
    size = np.frombuffer(self._size, np.int64)[order]
    sizes = np.zeros((len(rows), width), np.uint32)
    extra = np.zeros((len(rows), width), np.uint32)
    for state in np.unique(states[rows]).tolist():
      chosen = np.flatnonzero(states[rows] == state)
      begin = first[rows[chosen]]
      end = header[begin]
      full = [i for i, c in enumerate(self._paths[state]) if not c & 1]
      for column, part in enumerate(full):
        member = begin + part
        sizes[chosen, column] = size[member]
        extra[chosen, column] = place[member] - end - 1
        end = place[member] + (size[member] + BLOCK - 1) // BLOCK
    return header[first[rows]].astype(np.uint32), sizes, extra
