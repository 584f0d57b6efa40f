"""Reading of local and remote files, and atomic writing of local ones.

Remote files (gs://, s3://, hf:// and more) are read through fsspec.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import fsspec

from siglip_jax.errors import UserError

AnyPath = str | os.PathLike
# Errors of a file system that has no fsync, as some mounted ones.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def is_remote(path: AnyPath) -> bool:
  """Whether a path includes a file system, as gs://bucket/file does."""
  return "://" in os.fspath(path)


@contextlib.contextmanager
def reaching(path: AnyPath) -> Iterator[None]:
  """Turns any exception in the body into a UserError about a path."""
  try:
    yield
  except UserError:
    raise
  # File systems raise exceptions of their own, and not all are OSErrors. A
  # missing package is an ImportError.
  except Exception as e:  # pylint: disable=broad-except
    reason = f"{type(e).__name__}: {e}".rstrip(".")
    hint = ""
    if is_remote(path):
      hint = (
          " Remote paths need the package of their file system (gcsfs for"
          " gs://, s3fs for s3://, huggingface_hub for hf://) and the right to"
          " read; or copy the file."
      )
    raise UserError(
        f"{os.fspath(path):.200} cannot be reached: {reason}.{hint}"
    ) from None


def file_system(path: AnyPath) -> tuple[Any, str]:
  """Returns the fsspec file system of a remote path, and the path within it."""
  return fsspec.url_to_fs(os.fspath(path))


def read_bytes(path: AnyPath) -> bytes | None:
  """Returns the content of a file, or None if there is no file.

  Args:
    path: local or remote path; in a local one, ~ is the home folder.

  Raises:
    UserError: the path cannot be reached.
  """
  with reaching(path):
    if not is_remote(path):
      path = Path(path).expanduser()
      return path.read_bytes() if path.is_file() else None
    fs, name = file_system(path)
    return fs.cat_file(name) if fs.isfile(name) else None


@contextlib.contextmanager
def replacing(path: Path, *, writer: str = "") -> Iterator[Path]:
  """Replaces a file with what the body writes, in one move.

  The body writes to the path that it gets. Readers see the old file or the new
  one and never a part, even if the machine stops at any moment. If the body
  fails, the old file stays.

  Args:
    path: path of the file.
    writer: suffix of the temporary file, which must differ between processes
      that may write the file at the same time.
  """
  partial = path.with_name(f"{path.name}{writer}.part")
  partial.unlink(missing_ok=True)
  try:
    yield partial
    _sync(partial)
    partial.replace(path)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
  with contextlib.suppress(OSError):  # not every file system syncs folders
    _sync(path.parent)


def _sync(path: Path) -> None:
  """Waits until a file's content, or a folder's list of names, is on disk."""
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  except OSError as e:
    if e.errno not in _NO_SYNC:
      raise
  finally:
    os.close(fd)
