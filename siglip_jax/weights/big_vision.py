"""big_vision's weights: an .npz of arrays named by their paths.

Keys are `params/img/...`, `params/txt/...`, `params/t` and `params/b`, of older
models and single towers without `params/`; a whole checkpoint has the
optimiser's state beside them.
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
# What zipfile and NumPy raise on damaged archives: not a zip, bad data, an
# unsupported method or version (RuntimeError, as for encryption), or an invalid
# size.
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
  """Parameters as a nested dict of float32 arrays, blocks laid out as saved.

  Args:
    path: the .npz.

  Raises:
    UserError: no such file, no .npz, damaged, or with anything but arrays of
      numbers in it. Nothing in it is ever run.
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
    except UserError:  # of `_arrays`, and a ValueError, too
      raise
    except _DAMAGED as e:
      raise UserError(
          f"{path} is damaged or incomplete: {e or type(e).__name__}. Copy it"
          " again."
      ) from None
  layers = {name[:i] for name in flat for i, c in enumerate(name) if c == "/"}
  if both := sorted(layers & flat.keys()):
    raise UserError(
        f"{path}: {both[0]} is an array and a layer. It is damaged."
    )
  return tree.unflatten(flat)


def write(path: str | os.PathLike, params: Mapping) -> None:
  """Writes parameters as big_vision reads them; the file appears when whole.

  Args:
    path: the .npz.
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
  """Numbers of at most float32's precision as float32, exactly.

  Raises:
    UserError: something else.
  """
  # NumPy's files know no bfloat16, and keep it as two bytes of nothing.
  if x.dtype == np.dtype("V2"):
    x = x.view(ml_dtypes.bfloat16)
  if x.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
    raise UserError(
        f"{path}: weights must be float32, float16 or bfloat16; {name} is"
        f" {x.dtype}."
    )
  return x.astype(np.float32, copy=False)


def _check_magic(path: Path, start: bytes) -> None:
  if start in (b"PK\x03\x04", b"PK\x05\x06"):  # the latter is of an empty one
    return
  if start[:1] == b"\x80":
    raise UserError(
        f"{path} is a Python pickle, which could run any code and is not"
        " opened: save its arrays with numpy.savez."
    )
  raise UserError(
      f"{path} is no .npz, which is a zip of arrays. Give big_vision's .npz, a"
      " transformers folder or a workdir."
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
          f"{path}: {name} is no plain array of numbers"
          f" ({str(e).partition('. ')[0]})."
      ) from None
    if not isinstance(x, np.ndarray):
      raise UserError(
          f"{path}: {name} is no array. Of PyTorch's files only safetensors"
          " are read."
      )
    flat[name.removeprefix(_PREFIX)] = float32(x, name=name, path=path)
  return flat
