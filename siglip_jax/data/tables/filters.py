"""Lists of keys that choose records: `only` these, or all `without` these.

A list is a .npy file, or a .txt file with a key in each line. Keys are

- texts, such as SHA-256 digests or names,
- whole numbers,
- pairs of two uint64, as DataComp publishes its uids: these are compared with
  columns of 32 hexadecimal digits.

Millions of keys are searched in the mapped file, if it is sorted.
"""

import dataclasses
import io
from pathlib import Path

from jaxtyping import Bool
import numpy as np

from siglip_jax import files
from siglip_jax.errors import UserError

INDEX = "index"  # name of the column that counts the rows
_HEADER = "# siglip_jax rows of "  # and a digest
_LONGEST = 512  # bytes of a key
_ROWS = 1 << 20  # looked up together, which bounds the memory of temporaries
_PAIR = np.dtype([("f0", "<u8"), ("f1", "<u8")])
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
  """A sorted list of keys.

  Attributes:
    path: the file.
    sorted: an array of bytes (UTF-8), int64, uint64, or pairs of uint64.
    digest: the digest of the data whose rows are listed, or None for keys that
      mean the same in all data.
  """

  path: str
  sorted: np.ndarray
  digest: str | None = None

  def __len__(self) -> int:
    return len(self.sorted)

  def isin(self, column: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Returns which values of a column are in the list; None is not.

    Raises:
      UserError: the column holds another kind of values than the list.
    """
    chosen = np.zeros(len(column), bool)
    for start in range(0, len(column), _ROWS):
      rows = slice(start, start + _ROWS)
      chosen[rows] = self._isin(np.asarray(column[rows]))
    return chosen

  def _isin(self, values: np.ndarray) -> np.ndarray:
    match self.sorted.dtype.kind:
      case "V":
        pairs, valid = _pairs(values)
        if pairs is None or not valid.any() and len(_present(values)):
          raise self._wrong(values, "32 hexadecimal digits, as DataComp's uids")
        return valid & _find_pairs(self.sorted, pairs)
      case "S":
        if values.dtype.kind not in "OTUS":
          raise self._wrong(values, "texts")
        return _find(self.sorted, *_encoded(values, self.sorted.dtype))
    if values.dtype.kind not in "iu":
      raise self._wrong(values, "whole numbers")
    return _find_numbers(self.sorted, values)

  def _wrong(self, values: np.ndarray, expected: str) -> UserError:
    example = next(iter(_present(values).tolist()), None)
    return UserError(
        f"The keys of {self.path} need a column of {expected}; got values such"
        f" as {example!r:.100}. Name the column that the list was made from."
    )


def _present(values: np.ndarray) -> np.ndarray:
  if values.dtype.kind != "O":
    return values
  return values[values != None]  # noqa: E711 (elementwise)


def load(path: str | Path) -> Keys:
  """Returns the keys of a .npy or .txt file.

  Raises:
    UserError: the file cannot be read, or holds anything but keys.
  """
  path = str(path)
  if path.endswith(".npy"):
    return Keys(path, _sorted(_array(path)))
  if not path.endswith(".txt"):
    raise UserError(
        "A list of keys is a .npy file, or a .txt file with a key in each line;"
        f" got {path!r}."
    )
  data = files.read_bytes(path)
  if data is None:
    raise _missing(path)
  return _from_lines(path, data)


def write_rows(path: str | Path, rows: np.ndarray, digest: str) -> None:
  """Writes numbers of rows as a .txt list.

  Args:
    path: the file.
    rows: the numbers, from 0.
    digest: the digest of the data that have these rows.
  """
  lines = [f"{_HEADER}{digest}", *map(str, rows.tolist())]
  with files.replacing(Path(path)) as partial:
    partial.write_text("\n".join(lines) + "\n")


def _missing(path: str) -> UserError:
  return UserError(f"There is no list of keys {path}. Check the path.")


def _array(path: str) -> np.ndarray:
  """Returns the array in a .npy file; of a local file, it is mapped."""
  try:
    if files.is_remote(path):
      data = files.read_bytes(path)
      if data is None:
        raise _missing(path)
      keys = np.load(io.BytesIO(data), allow_pickle=False)
    else:
      local = Path(path).expanduser()
      keys = np.load(local, mmap_mode="r", allow_pickle=False)
  except FileNotFoundError:
    raise _missing(path) from None
  except (OSError, ValueError, EOFError) as e:
    reason = str(e).rstrip(".").partition("\n")[0]
    raise UserError(
        f"{path} must be a .npy file of texts, whole numbers or pairs of"
        f" uint64; it cannot be read: {reason}. Write it with numpy.save."
    ) from None
  fields = keys.dtype.fields or {}
  pair = len(fields) == 2 and all(d[0] == np.uint64 for d in fields.values())
  if keys.ndim == 2 and keys.shape[1] == 2 and keys.dtype == np.uint64:
    return np.ascontiguousarray(keys).view(_PAIR).reshape(-1)
  if keys.ndim == 1 and (pair or keys.dtype.kind in "SUiu"):
    return keys.view(_PAIR) if pair else keys
  raise UserError(
      f"{path} must hold texts, whole numbers or pairs of uint64 in one"
      f" dimension; it holds {keys.dtype} of shape {keys.shape}."
  )


def _sorted(keys: np.ndarray) -> np.ndarray:
  """Returns the keys sorted: the same array, if it is sorted already."""
  if keys.dtype.kind == "U":
    keys = np.char.encode(keys, "utf-8")
  if keys.dtype.kind == "V":
    for start in range(0, len(keys), _ROWS):
      part = keys[start : start + _ROWS + 1]
      a, b = part[:-1], part[1:]
      later = (a["f0"] == b["f0"]) & (a["f1"] > b["f1"])
      if np.any((a["f0"] > b["f0"]) | later):
        return keys[np.lexsort((keys["f1"], keys["f0"]))]
    return keys
  for start in range(0, len(keys), _ROWS):
    part = keys[start : start + _ROWS + 1]
    if np.any(part[:-1] > part[1:]):
      return np.sort(keys)
  return keys


def _from_lines(path: str, data: bytes) -> Keys:
  header, _, rest = data.partition(b"\n")
  if header.startswith(_HEADER.encode()):
    digest = header[len(_HEADER) :].decode("ascii", "replace").strip()
    try:
      rows = np.array([int(line) for line in rest.split()], np.int64)
    except (ValueError, OverflowError) as e:
      raise UserError(
          f"{path} must have the number of a row in each line: {e}. Make it"
          " again with `python -m siglip_jax.data.lists`."
      ) from None
    return Keys(path, np.sort(rows), digest)
  lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
  keys = [line.strip() for line in lines]
  for number, key in enumerate(keys, 1):
    if len(key) > _LONGEST:
      raise UserError(
          f"{path} must have one key in each line, of at most {_LONGEST}"
          f" bytes; line {number} has {len(key)}: {key[:60]!r}."
      )
  keys = [key for key in keys if key]
  return Keys(path, np.sort(np.array(keys, np.bytes_)))


def _encoded(
    values: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
  """Returns texts as bytes of a dtype, and which of them fit into it."""
  if values.dtype.kind == "S":
    texts = values.tolist()
  else:
    texts = [
        v.encode("utf-8", "surrogateescape") if isinstance(v, str) else None
        for v in values.tolist()
    ]
  size = dtype.itemsize
  fits = [t is not None and len(t) <= size for t in texts]
  parts = [t if fit else b"" for t, fit in zip(texts, fits, strict=True)]
  return np.array(parts, dtype), np.array(fits, bool)


def _find(
    keys: np.ndarray, values: np.ndarray, valid: np.ndarray
) -> np.ndarray:
  if not len(keys):
    return np.zeros(len(values), bool)
  places = np.searchsorted(keys, values)
  places = np.minimum(places, len(keys) - 1)
  return valid & (keys[places] == values)


def _find_numbers(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
  # NumPy compares int64 with uint64 as float64, which rounds.
  if keys.dtype.kind == "u":
    return _find(keys, values.astype(np.uint64), values >= 0)
  valid = values <= np.iinfo(np.int64).max
  return _find(keys, values.astype(np.int64), valid)


def _pairs(values: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
  """Returns uids as pairs of numbers, and which of them are uids.

  Args:
    values: pairs, or texts of 32 hexadecimal digits.
  """
  if values.dtype.kind == "V" and len(values.dtype.fields or ()) == 2:
    return values.view(_PAIR), np.ones(len(values), bool)
  if values.dtype.kind not in "OTUS":
    return None, np.zeros(len(values), bool)
  texts, valid = _encoded(values, np.dtype("S32"))
  digits = _HEX[texts.view(np.uint8).reshape(-1, 32)]
  valid = valid & (digits < 16).all(axis=1)
  octets = (digits[:, ::2] << 4) | (digits[:, 1::2] & 15)
  numbers = np.ascontiguousarray(octets).view(">u8").astype("<u8")
  return numbers.view(_PAIR).reshape(-1), valid


def _find_pairs(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Returns which pairs are among sorted ones.

  NumPy compares structures field by field in slow code, so this is a binary
  search for all values together.
  """
  high, low = values["f0"], values["f1"]
  first = np.zeros(len(values), np.int64)
  last = np.full(len(values), len(keys), np.int64)
  for _ in range(len(keys).bit_length()):
    middle = np.minimum((first + last) // 2, len(keys) - 1)
    key = keys[middle]
    below = (key["f0"] < high) | ((key["f0"] == high) & (key["f1"] < low))
    open_ = first < last
    first = np.where(open_ & below, middle + 1, first)
    last = np.where(open_ & ~below, middle, last)
  if not len(keys):
    return np.zeros(len(values), bool)
  key = keys[np.minimum(first, len(keys) - 1)]
  return (key["f0"] == high) & (key["f1"] == low)
