"""Stores of objects: which one a URL means, and an open connection to it."""

import dataclasses
import functools
import os
import re
from urllib.parse import unquote
from urllib.parse import urlsplit

import obstore
from obstore import store as obstores

from siglip_jax.data.remote import retries as _retries
from siglip_jax.data.remote.retries import Retries
from siglip_jax.errors import UserError

SCHEMES = ("gs", "s3", "hf", "https", "http")
LISTING = ("gs", "s3", "hf")  # stores that say which files they have
WRITABLE = ("gs", "s3")
_ENDPOINTS = ("GOOGLE_BASE_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_HF = re.compile(
    r"(?:(datasets)/)?(?!datasets/|spaces/)([^/@]+/[^/@]+)"
    r"(?:@(refs/[^/]+/[^/]+|[^/]+))?/(.+)"
)


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of an object.

  Attributes:
    url: what the user wrote, for messages.
    scheme: one of SCHEMES.
    root: the bucket, or the server.
    name: name of the object in it.
  """

  url: str
  scheme: str
  root: str
  name: str


@dataclasses.dataclass(frozen=True)
class Repository:
  """The place of a file in a repository of the Hugging Face hub.

  Attributes:
    kind: "dataset" or "model".
    name: OWNER/NAME.
    revision: a branch, tag or commit.
    path: the file, or a pattern.
  """

  kind: str
  name: str
  revision: str
  path: str


def place(url: str) -> Place:
  """Returns the place that a URL means.

  Raises:
    UserError: its scheme is not one of SCHEMES, or it lacks a name.
  """
  scheme, _, rest = url.partition("://")
  if scheme not in SCHEMES:
    known = ", ".join(f"{s}://" for s in SCHEMES)
    raise UserError(
        f"Remote files must be on {known}; got {url!r:.200}. Copy the files to"
        " such a place or to this machine."
    )
  if scheme == "hf":
    root, name = _resolved(repository(url))
  else:
    host, _, name = rest.partition("/")
    root = f"{scheme}://{host}"
    if scheme in ("http", "https"):
      name = _web_name(url)
  if not name:
    raise UserError(
        f"A remote file must have a name, as {scheme}://BUCKET/NAME; got"
        f" {url!r:.200}. Add it."
    )
  return Place(url, scheme, root, name)


def repository(url: str) -> Repository:
  """Returns the place that an hf:// URL means.

  Raises:
    UserError: it has another form.
  """
  match = _HF.fullmatch(url.removeprefix("hf://"))
  if not match:
    raise UserError(
        "Files of the Hugging Face hub must be given as"
        f" hf://datasets/OWNER/NAME/PATH or hf://datasets/OWNER/NAME@REVISION/"
        f"PATH; got {url!r:.200}. Correct the URL."
    )
  kind, name, revision, path = match.groups()
  return Repository(
      "dataset" if kind else "model", name, unquote(revision or "main"), path
  )


@functools.lru_cache(64)
def connect(where: tuple[str, str], retries: Retries) -> obstores.ObjectStore:
  """Returns the store of a scheme and root, with connections of its own.

  Threads share it. A process that is forked after its first use must not use
  it: obstore's threads are not in the fork.
  """
  scheme, root = where
  options: obstore.store.ClientConfig = {
      "connect_timeout": f"{retries.stall}s",
      "read_timeout": f"{retries.stall}s",
      "timeout": f"{retries.whole}s",
      "allow_http": _allow_http(root),
  }
  if scheme == "hf" and (token := _token()):
    options["default_headers"] = {"authorization": f"Bearer {token}"}
  return obstores.from_url(
      root, client_options=options, retry_config={"max_retries": 0}
  )


def store(place: Place, retries: Retries) -> obstores.ObjectStore:
  """Returns the store of a place.

  Raises:
    UserError: the name of the bucket or server is not one.
  """
  try:
    return connect((place.scheme, place.root), retries)
  except Exception as e:  # obstore raises errors of several kinds here
    reason = str(e).split("\n", 1)[0]
    raise UserError(
        f"{place.url} cannot be opened: {reason}."
        f"{_retries.credentials(place.url)}"
    ) from None


def _resolved(repository: Repository) -> tuple[str, str]:
  """Returns the web address of a repository's revision, and a file's path."""
  # Imported here: it takes 0.2 s, which the workers of a loader need not wait.
  import huggingface_hub

  address = huggingface_hub.hf_hub_url(
      repository.name,
      "FILE",
      repo_type=repository.kind,
      revision=repository.revision,
      endpoint=hub(),
  )
  return address.removesuffix("/FILE"), repository.path


def hub() -> str | None:
  """Returns the address of the hub in the environment, or None."""
  return os.environ.get("HF_ENDPOINT")


def _token() -> str | None:
  import huggingface_hub  # imported here: see _resolved

  return huggingface_hub.get_token()


def _web_name(url: str) -> str:
  """Returns the path of a URL of the web, as the server's files are named."""
  parts = urlsplit(url)
  if parts.query or parts.fragment:
    raise UserError(
        "A file on a web server must be a plain address, without ? and #; got"
        f" {url!r:.200}. Such servers list no files: give their names, as"
        " https://SERVER/{00000..00099}.tar."
    )
  return unquote(parts.path).strip("/")


def _allow_http(root: str) -> bool:
  """Whether requests may be without TLS: the user named such a server."""
  named = (root, *(os.environ.get(name, "") for name in _ENDPOINTS))
  return any(address.startswith("http://") for address in named)
