"""big_vision's weights: an .npz of arrays named by their paths.

Keys are `params/img/...`, `params/txt/...`, `params/t` and `params/b`. Older
models and single towers have no `params/` prefix. A full checkpoint also holds
the optimizer's state, under other keys.
"""

from collections.abc import Mapping
import os
from pathlib import Path
import zipfile
import zlib

import jax
import ml_dtypes
import numpy as np

from siglip_jax import files
from siglip_jax import tree
from siglip_jax.errors import UserError

_PREFIX = "params/"
# Exceptions of zipfile and NumPy on damaged archives: not a zip, bad data, an
# invalid size, or an unsupported method, version or encryption (RuntimeError).
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    OverflowError,
    ValueError,
)


def read(path: str | os.PathLike) -> dict:
  """Returns the parameters of an .npz as a nested dict of float32 arrays.

  Blocks are laid out as saved. No code in the file is ever executed.

  Args:
    path: path of the .npz.

  Raises:
    UserError: the file is missing, is not an .npz, is damaged, or holds
      anything other than arrays of numbers.
  """
  path = Path(path).expanduser()
  if not path.exists():
    raise UserError(f"There is no {path}: expected big_vision's .npz.")
  if path.is_dir():
    raise UserError(f"{path} is a folder: expected big_vision's .npz.")
  with path.open("rb") as file:
    _check_magic(path, file.read(4))
    file.seek(0)
    try:
      with np.load(file, allow_pickle=False) as archive:
        flat = _arrays(path, archive)
    except UserError:  # from `_arrays`; it is also a ValueError
      raise
    except _DAMAGED as e:
      raise UserError(
          f"{path} is damaged or incomplete: {e or type(e).__name__}. Copy it"
          " again."
      ) from None
  layers = {name[:i] for name in flat for i, c in enumerate(name) if c == "/"}
  if clashes := sorted(layers & flat.keys()):
    raise UserError(
        f"{path}: {clashes[0]} is an array and a layer. It is damaged."
    )
  return tree.unflatten(flat)


def write(path: str | os.PathLike, params: Mapping) -> None:
  """Writes parameters as an .npz that big_vision reads.

  The file appears only when it is complete.

  Args:
    path: path of the .npz.
    params: nested dict of arrays.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  flat = {
      _PREFIX + name: np.asarray(jax.device_get(x))
      for name, x in tree.flatten(params).items()
  }
  with files.replacing(path) as partial, partial.open("wb") as file:
    np.savez(file, allow_pickle=False, **flat)


def float32(x: np.ndarray, *, name: str, path: os.PathLike) -> np.ndarray:
  """Returns an array as float32, with exactly the same values.

  Args:
    x: array of float32, float16 or bfloat16.
    name: the array's name, for error messages.
    path: path of the array's file, for error messages.

  Raises:
    UserError: the array has another type.
  """
  # NumPy's files have no bfloat16: it is saved as V2, two untyped bytes.
  if x.dtype == np.dtype("V2"):
    x = x.view(ml_dtypes.bfloat16)
  if x.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
    raise UserError(
        f"{path}: weights must be float32, float16 or bfloat16; {name} is"
        f" {x.dtype}."
    )
  return x.astype(np.float32, copy=False)


def _check_magic(path: Path, start: bytes) -> None:
  if start in (b"PK\x03\x04", b"PK\x05\x06"):  # the latter is an empty zip
    return
  if start[:1] == b"\x80":
    raise UserError(
        f"{path} is a Python pickle, which could run any code and is not"
        " opened: save its arrays with numpy.savez."
    )
  raise UserError(
      f"{path} is not an .npz, which is a zip of arrays. Give big_vision's"
      " .npz, a transformers folder or a workdir."
  )


def _arrays(path: Path, archive: np.lib.npyio.NpzFile) -> dict:
  names = list(archive.files)
  chosen = [n for n in names if n.startswith(_PREFIX)] or names
  if not chosen:
    raise UserError(f"{path} holds no arrays: expected weights.")
  flat = {}
  for name in chosen:
    try:
      x = archive[name]
    except ValueError as e:
      raise UserError(
          f"{path}: {name} is not a plain array of numbers"
          f" ({str(e).partition('. ')[0]})."
      ) from None
    if not isinstance(x, np.ndarray):
      raise UserError(
          f"{path}: {name} is not an array. Of PyTorch's files only safetensors"
          " are read."
      )
    flat[name.removeprefix(_PREFIX)] = float32(x, name=name, path=path)
  return flat
