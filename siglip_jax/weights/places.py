"""Temporary local copies of remote weights."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
from pathlib import Path
import tempfile

from siglip_jax import files
from siglip_jax.data.tokenizer import FORMATS
from siglip_jax.errors import UserError

# Suffixes of the files to copy; files for other frameworks have other ones.
_NEEDED = (".npz", ".json", ".safetensors", "spiece.model", *FORMATS)
_LISTED = 12  # steps that a message names


@contextlib.contextmanager
def local(path: files.AnyPath, step: int | None = None) -> Iterator[Path]:
  """Yields a local path, or a temporary copy of a remote file or folder.

  If nothing exists at `path`, nothing exists at the yielded path either.

  Args:
    path: local, or on a file system that fsspec supports. From a remote folder,
      only the files that weights consist of are copied; from a remote workdir,
      the parameters of one checkpoint as well.
    step: step of that checkpoint; by default the newest.

  Raises:
    UserError: access is denied, a package is missing, or a remote workdir has
      no checkpoint of this step.
  """
  if not files.is_remote(path):
    yield Path(path).expanduser()
    return
  with tempfile.TemporaryDirectory(prefix="siglip_jax_") as folder:
    with files.reaching(path):
      copied = _copy(path, Path(folder), step)
    yield copied


def not_kept(step: int, kept: Sequence[int], place: files.AnyPath) -> UserError:
  """Returns the error for a step without a checkpoint.

  Args:
    step: step that was asked for.
    kept: steps that have one, at least one, oldest first.
    place: folder of the checkpoints.
  """
  listed = ", ".join(map(str, kept[-_LISTED:]))
  more = f"{len(kept) - _LISTED} older ones, " if len(kept) > _LISTED else ""
  return UserError(
      f"There is no checkpoint of step {step} in {place}, which keeps"
      f" {more}{listed}. Give one of these, or leave the step out for the"
      " newest."
  )


def _copy(path: files.AnyPath, folder: Path, step: int | None) -> Path:
  fs, root = files.file_system(path)
  if not fs.exists(root):
    return folder / Path(root).name  # also missing, so that the caller notices
  for name in _chosen(fs, root, step):
    target = folder / Path(name).relative_to(Path(root).parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    fs.get_file(name, str(target))
  return folder / Path(root).name


def _chosen(fs, root: str, step: int | None) -> list[str]:
  """Returns the names of the files to copy."""
  if not fs.isdir(root):
    return [root]
  names = [f["name"] for f in fs.ls(root, detail=True) if f["type"] == "file"]
  names = [name for name in names if name.endswith(_NEEDED)]
  checkpoints = f"{root}/checkpoints"
  if not fs.isdir(checkpoints):
    return names
  listed = [Path(f).name for f in fs.ls(checkpoints, detail=False)]
  steps = sorted(int(name) for name in listed if is_step(name))
  if not steps:
    return names
  step = steps[-1] if step is None else step
  if step not in steps:
    raise not_kept(step, steps, fs.unstrip_protocol(checkpoints))
  items = [
      f"{checkpoints}/{step}/{item}" for item in ("params", "spec", "about")
  ]
  return [*names, *(name for item in items for name in fs.find(item))]


def is_step(name: str) -> bool:
  """Whether a folder of checkpoints/ has the name of a whole checkpoint."""
  return name.isascii() and name.isdigit()
