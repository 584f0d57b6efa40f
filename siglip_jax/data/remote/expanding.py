"""Names of files from patterns, on disks and in stores that list files."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import fnmatch
import glob
import os
from pathlib import Path

import obstore

from siglip_jax.data.remote import retries
from siglip_jax.data.remote import stores
from siglip_jax.data.remote.braces import braces
from siglip_jax.data.remote.braces import has_stars
from siglip_jax.errors import UserError
from siglip_jax.files import is_remote
from siglip_jax.files import reaching


@dataclasses.dataclass(frozen=True)
class Listing:
  """The content of a folder.

  Attributes:
    folders: names of its folders.
    files: name -> size in bytes and etag.
  """

  folders: list[str]
  files: dict[str, tuple[int, str]]


# Path of a folder in a store, "" for the top -> what is in it.
_List = Callable[[str], Listing]


def expand(patterns: str | Iterable[str]) -> list[str]:
  """Returns the paths that patterns stand for, sorted, each once.

  Args:
    patterns: one pattern or several, local or remote. Braces as
      {00000..01242} and {a,b} are replaced without a look at the files; * and ?
      find the files that are there, in one folder each.

  Raises:
    UserError: a pattern finds nothing, is a folder, or is wrong; or the place
      cannot be listed.
  """
  several = [patterns] if isinstance(patterns, str) else list(patterns)
  for pattern in several:
    if not isinstance(pattern, str) or "\0" in pattern:
      raise UserError(f"A path must be a text without zeros; got {pattern!r}.")
  if not several:
    raise UserError("At least one file must be named; the list is empty.")
  paths: set[str] = set()
  for pattern in several:
    found = _one(pattern)
    if not found:
      raise UserError(
          f"A pattern must find at least one file; {pattern:.300} finds none."
          " Correct it, or make the files."
      )
    paths.update(found)
  return sorted(paths)


def listing(url: str) -> Callable[[str], Listing]:
  """Returns a function that lists the folders of the store of a URL."""
  place = stores.place(url)
  if place.scheme == "hf":
    return lambda folder: _list_hub(stores.repository(url), folder)
  return lambda folder: _list_bucket(place, folder)


def _one(pattern: str) -> list[str]:
  """Returns the paths of one pattern, which are there if it has stars."""
  if pattern.startswith("pipe:") or "::" in pattern:
    raise UserError(
        "Paths must be files, local or remote; pipe: commands and :: between"
        f" paths are not read; got {pattern:.200}. Give a URL, or a list."
    )
  if is_remote(pattern):
    return [path for name in braces(pattern) for path in _remote(name)]
  pattern = os.path.expanduser(pattern)
  if os.path.isfile(pattern):
    return [pattern]  # whatever signs are in its name
  return [path for name in braces(pattern) for path in _local(name)]


def _local(name: str) -> list[str]:
  if os.path.isdir(name):
    raise _folder(name)
  if not has_stars(name):
    return [name]
  return [path for path in glob.glob(name) if os.path.isfile(path)]


def _folder(name: str) -> UserError:
  """Returns the error for a folder, with what lies in it."""
  suffixes = collections.Counter(
      path.suffix for path in Path(name).iterdir() if path.is_file()
  )
  counts = ", ".join(
      f"{n} {s or 'without suffix'}" for s, n in sorted(suffixes.items())
  )
  return UserError(
      f"Files must be named; {name} is a folder, which holds"
      f" {counts or 'no files'}. Give a pattern, as {name}/*.tar."
  )


def _remote(url: str) -> list[str]:
  # The signs of patterns have another meaning in what follows a URL's path.
  if not has_stars(url):
    stores.place(url)
    return [url]
  scheme, _, rest = url.partition("://")
  if scheme not in stores.LISTING:
    stores.place(url)
    raise UserError(
        "A web server does not list its files, so * finds nothing there; got"
        f" {url:.200}. Use braces, as {{00000..00099}}."
    )
  place = stores.place(url)
  start = url[: len(url) - len(place.name)]
  if has_stars(start):
    raise UserError(
        f"* and ? may stand for names of files, not of buckets; got {url:.200}."
        " Name the bucket."
    )
  with reaching(url):
    matches = _matches(listing(url), "", place.name.split("/"))
    return [start + name for name in matches]


def _matches(list_: _List, folder: str, segments: list[str]) -> Iterator[str]:
  """Yields the names in a folder that fit a pattern, segment by segment."""
  first, *rest = segments
  if rest and not has_stars(first):
    yield from _matches(list_, f"{folder}{first}/", rest)
    return
  content = list_(folder.rstrip("/"))
  for name in content.folders if rest else content.files:
    if fnmatch.fnmatchcase(name, first):
      if rest:
        yield from _matches(list_, f"{folder}{name}/", rest)
      else:
        yield folder + name


def _list_bucket(place: stores.Place, folder: str) -> Listing:
  store = stores.store(place, retries.AT_START)
  content = retries.call(
      f"the list of {place.root}/{folder}",
      lambda: obstore.list_with_delimiter(store, folder or None),
      retries.AT_START,
  )
  return Listing(
      folders=[path.rpartition("/")[2] for path in content["common_prefixes"]],
      files={
          o["path"].rpartition("/")[2]: (o["size"], o["e_tag"] or "")
          for o in content["objects"]
      },
  )


def _list_hub(repository: stores.Repository, folder: str) -> Listing:
  import huggingface_hub  # imported here: it takes 0.2 s

  tree = huggingface_hub.HfApi(endpoint=stores.hub()).list_repo_tree(
      repository.name,
      path_in_repo=folder or None,
      revision=repository.revision,
      repo_type=repository.kind,
  )
  folders, files = [], {}
  for entry in tree:
    name = entry.path.rpartition("/")[2]
    if isinstance(entry, huggingface_hub.RepoFile):
      # The web server's etag of a file is another one.
      files[name] = (entry.size, "")
    else:
      folders.append(name)
  return Listing(folders, files)
