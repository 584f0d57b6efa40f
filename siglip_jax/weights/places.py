"""Files that live elsewhere, brought here for as long as they are read."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile

import fsspec

from siglip_jax.errors import UserError

# What weights are made of: not the copies for other frameworks beside them.
_NEEDED = (".npz", ".json", ".safetensors", ".model")


@contextlib.contextmanager
def local(path: str) -> Iterator[Path]:
  """The path, or a temporary copy of what it names on another file system.

  Args:
    path: of a file or folder; gs://, s3://, hf:// and whatever else fsspec
      knows is copied: the files that weights are made of, and of a workdir the
      newest parameters.

  Raises:
    UserError: no such file, no access, or a package is missing.
  """
  if "://" not in path:
    yield Path(path).expanduser()
    return
  with tempfile.TemporaryDirectory(prefix="siglip_jax_") as folder:
    yield _copy(path, Path(folder))


def _copy(path: str, folder: Path) -> Path:
  try:
    fs, root = fsspec.url_to_fs(path)
    for name in _chosen(fs, root):
      target = folder / Path(name).relative_to(Path(root).parent)
      target.parent.mkdir(parents=True, exist_ok=True)
      fs.get_file(name, str(target))
  except ImportError as e:
    raise UserError(
        f"{path} needs a package that is not installed: {e}."
    ) from None
  # Each file system has its own exceptions; most are OSErrors, not all.
  except Exception as e:  # pylint: disable=broad-except
    raise UserError(
        f"{path} cannot be read: {type(e).__name__}: {e}."
    ) from None
  return folder / Path(root).name


def _chosen(fs, root: str) -> list[str]:
  """The files to copy."""
  if not fs.isdir(root):
    if not fs.exists(root):
      raise FileNotFoundError(root)
    return [root]
  found = [f["name"] for f in fs.ls(root, detail=True) if f["type"] == "file"]
  found = [f for f in found if f.endswith(_NEEDED)]
  checkpoints = f"{root}/checkpoints"
  if not fs.isdir(checkpoints):
    return found
  steps = [Path(f).name for f in fs.ls(checkpoints, detail=False)]
  steps = sorted((s for s in steps if s.isdigit()), key=int)
  if not steps:
    raise FileNotFoundError(checkpoints)
  newest = f"{checkpoints}/{steps[-1]}"
  return [
      *found,
      *fs.find(f"{newest}/params"),
      *fs.find(f"{newest}/spec"),
      *fs.find(f"{newest}/about"),
  ]
