"""Temporary local copies of remote weights."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile

from siglip_jax import files
from siglip_jax.data.tokenizer import FORMATS

# Suffixes of the files to copy; files for other frameworks have other ones.
_NEEDED = (".npz", ".json", ".safetensors", "spiece.model", *FORMATS)


@contextlib.contextmanager
def local(path: files.AnyPath) -> Iterator[Path]:
  """Yields a local path, or a temporary copy of a remote file or folder.

  If nothing exists at `path`, nothing exists at the yielded path either.

  Args:
    path: local, or on a file system that fsspec supports. From a remote folder,
      only the files that weights consist of are copied; from a remote workdir,
      the newest parameters as well.

  Raises:
    UserError: access is denied, or a package is missing.
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
    return folder / Path(root).name  # also missing, so that the caller notices
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
    return names
  newest = f"{checkpoints}/{steps[-1]}"
  items = [f"{newest}/{item}" for item in ("params", "spec", "about")]
  return [*names, *(name for item in items for name in fs.find(item))]
