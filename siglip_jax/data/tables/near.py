"""Which of many images are copies of others, by their hashes or embeddings."""

from collections.abc import Iterator

from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import UInt64
import numpy as np

from siglip_jax.data import opening

BITS = 64
_PAIRS = 1 << 22  # compared together
_ROWS = 4096  # embeddings that are multiplied together


def same(
    hashes: np.ndarray, others: np.ndarray | None = None
) -> Bool[np.ndarray, " N"]:
  """Returns which hashes are equal to one of the others.

  Args:
    hashes: hashes of any kind.
    others: hashes of other images; None for the earlier ones of the same.
  """
  if others is not None:
    return np.isin(hashes, others)
  _, first = np.unique(hashes, return_index=True)
  copies = np.ones(len(hashes), bool)
  copies[first] = False
  return copies


def alike(
    hashes: UInt64[np.ndarray, " N"],
    distance: int,
    others: UInt64[np.ndarray, " M"] | None = None,
) -> Bool[np.ndarray, " N"]:
  """Returns which hashes differ in few bits from one of the others.

  If at most d bits differ, then at least one of d + 1 groups of bits does not,
  so only hashes that share a group are compared.

  Args:
    hashes: 64 bits for each image.
    distance: the most bits that may differ.
    others: hashes of other images; None for the earlier ones of the same.
  """
  if others is not None:
    mine, place = np.unique(hashes, return_inverse=True)
    return _among(mine, np.unique(others), distance)[place]
  mine, first = np.unique(hashes, return_index=True)
  copies = same(hashes)
  copies[first] = _among(mine, mine, distance, first)
  return copies


def _among(
    hashes: np.ndarray,
    others: np.ndarray,
    distance: int,
    ranks: np.ndarray | None = None,
) -> np.ndarray:
  """Returns which hashes are near one of the others.

  Args:
    hashes: different hashes.
    others: the others; with `ranks`, the same hashes.
    distance: the most bits that may differ.
    ranks: a number for each hash; only others with smaller ones count.
  """
  result = np.zeros(len(hashes), bool)
  bounds = np.linspace(0, BITS, distance + 2).astype(int)
  groups = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
  for low, high in opening.track(groups, "Comparing hashes, groups of bits"):
    mask = np.uint64((1 << (high - low)) - 1)
    keys = (others >> np.uint64(low)) & mask
    order = np.argsort(keys, kind="stable")
    own = (hashes >> np.uint64(low)) & mask
    begins = np.searchsorted(keys[order], own, side="left")
    ends = np.searchsorted(keys[order], own, side="right")
    for a, b in _pairs(begins, ends, result):
      b = order[b]
      near = np.bitwise_count(hashes[a] ^ others[b]) <= distance
      if ranks is not None:
        near &= ranks[b] < ranks[a]
      result[a[near]] = True
  return result


def _pairs(
    begins: np.ndarray, ends: np.ndarray, done: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs of a row and a place in its range, a few million at a time.

  Args:
    begins: start of each row's range.
    ends: end of each row's range.
    done: rows that need no pairs; it may change meanwhile.
  """
  counts = ends - begins
  total = np.concatenate([[0], np.cumsum(counts)])
  row = 0
  while row < len(counts):
    last = int(np.searchsorted(total, total[row] + _PAIRS, side="right")) - 1
    last = max(last, row + 1)
    rows = np.arange(row, last)[~done[row:last]]
    for start in range(0, int(counts[rows].max(initial=0)), _PAIRS):
      # One row alone may have more places than are compared together.
      sizes = np.clip(counts[rows] - start, 0, _PAIRS)
      a = np.repeat(rows, sizes)
      offsets = np.arange(len(a)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
      yield a, begins[a] + start + offsets
    row = last


def similar(
    z: Float[np.ndarray, "N D"],
    least: float,
    others: Float[np.ndarray, "M D"] | None = None,
) -> Bool[np.ndarray, " N"]:
  """Returns which embeddings have a cosine of at least `least` with another.

  Args:
    z: unit vectors.
    least: the least cosine.
    others: embeddings of other images; None for the earlier ones of the same.
  """
  result = np.zeros(len(z), bool)
  starts = range(0, len(z), _ROWS)
  what = "Comparing embeddings"
  for start in opening.track(starts, what, total=len(z), size=lambda _: _ROWS):
    rows = slice(start, start + _ROWS)
    most = len(others) if others is not None else start + _ROWS
    for first in range(0, most, _ROWS):
      b = (z if others is None else others)[first : first + _ROWS]
      cosines = z[rows] @ b.T
      if others is None and first == start:
        cosines[np.triu_indices(len(b))] = -1  # itself, and later ones
      result[rows] |= cosines.max(axis=1) >= least
  return result
