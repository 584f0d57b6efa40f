"""Weights that live elsewhere, copied here while they are read."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile

from siglip_jax import files

# The files that weights are made of, not their copies for other frameworks.
_NEEDED = (".npz", ".json", ".safetensors", ".model")


@contextlib.contextmanager
def local(path: files.AnyPath) -> Iterator[Path]:
  """Yields a local path, or a temporary copy of a remote file or folder.

  There is nothing at the path that it yields if there is nothing at `path`.

  Args:
    path: local, or on a file system that fsspec knows. Of a remote folder the
      files that weights are made of are copied, and of a remote workdir also
      the newest parameters.

  Raises:
    UserError: no access, or a package is missing.
  """
  if not files.is_remote(path):
    yield Path(path).expanduser()
    return
  with tempfile.TemporaryDirectory(prefix="siglip_jax_") as folder:
    with files.reaching(path):
      copied = _copy(path, Path(folder))
    yield copied


def _copy(path: files.AnyPath, folder: Path) -> Path:
  fs, root = files.file_system(path)
  if not fs.exists(root):
    return folder / Path(root).name  # not there either, for the caller to see
  for name in _chosen(fs, root):
    target = folder / Path(name).relative_to(Path(root).parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    fs.get_file(name, str(target))
  return folder / Path(root).name


def _chosen(fs, root: str) -> list[str]:
  """Returns the names of the files to copy."""
  if not fs.isdir(root):
    return [root]
  names = [f["name"] for f in fs.ls(root, detail=True) if f["type"] == "file"]
  names = [name for name in names if name.endswith(_NEEDED)]
  checkpoints = f"{root}/checkpoints"
  if not fs.isdir(checkpoints):
    return names
  steps = [Path(f).name for f in fs.ls(checkpoints, detail=False)]
  steps = sorted((s for s in steps if s.isdigit()), key=int)
  if not steps:
    raise FileNotFoundError(checkpoints)
  newest = f"{checkpoints}/{steps[-1]}"
  items = [f"{newest}/{item}" for item in ("params", "spec", "about")]
  return [*names, *(name for item in items for name in fs.find(item))]
