"""Whether the images that a list names are there.

Millions of names are looked up in the listings of their directories, not one
by one.
"""

from collections.abc import Iterable
import os

from siglip_jax.data import folder_files
from siglip_jax.data import opening


def look_up(
    root: str | os.PathLike, paths: Iterable[str], what: str, *, inside: bool
) -> tuple[set[str], set[str]]:
  """Returns which paths are not files, and which lead out of the folder.

  Args:
    root: the folder from which relative paths start.
    paths: the paths.
    what: what they are for, for the progress on stderr.
    inside: whether paths must not lead out of the folder by themselves, as
      ../a.png does. Links may: they were made on this machine.
  """
  names: dict[str, set[str]] = {}  # directory, with its slash -> images
  for path in paths:
    name = path.rpartition("/")[2]
    names.setdefault(path[: len(path) - len(name)], set()).add(name)
  root = os.path.realpath(root)
  missing, outside = set(), set()
  for head in opening.track(names, what, total=len(names)):
    if inside and _leads_out(root, head):
      outside |= {head + name for name in names[head]}
    else:
      folder = os.path.join(root, head)
      missing |= {head + name for name in _absent(folder, names[head])}
  return missing, outside


def _leads_out(root: str, head: str) -> bool:
  if not head.startswith("/") and ".." not in head.split("/"):
    return False
  folder = os.path.realpath(os.path.join(root, head))
  return not folder_files.inside(folder, root)


def _absent(folder: str, names: set[str]) -> set[str]:
  """Returns which names are not files in a directory."""
  missing = set(names)
  try:
    with os.scandir(folder) as listing:
      for entry in listing:
        if entry.name not in missing:
          continue
        link = entry.is_symlink()
        if os.path.isfile(entry.path) if link else entry.is_file():
          missing.discard(entry.name)
  except PermissionError:
    pass  # files may be readable in a directory that is not
  except (OSError, ValueError):
    return missing
  # Some file systems take a name in capitals for the same.
  return {n for n in missing if not os.path.isfile(os.path.join(folder, n))}
