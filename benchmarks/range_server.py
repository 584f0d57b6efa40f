"""Serves a folder as an object store does, slowly and with faults.

  python benchmarks/range_server.py FOLDER --latency=0.05 --faults=0.05

It answers GET (with Range and If-Match), HEAD and PUT, and the listings of S3
and Google Cloud Storage, in which the first part of a path is the bucket. A
share of the reads goes wrong: 503, 429 with Retry-After, a body that stalls,
one that is cut off, or one with fewer bytes than were asked for.
"""

import argparse
import collections
import contextlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
import random
import re
import threading
import time
from urllib.parse import parse_qs
from urllib.parse import unquote
from urllib.parse import urlsplit
from xml.sax import saxutils

FAULTS = ("503", "429", "stall", "cut", "short")
_PIECE = 1 << 20  # bytes sent at once


class RangeServer:
  """A server on a free port of this machine, from `with` to its end.

  Args:
    folder: the files to serve.
    latency: seconds before each answer.
    faults: share of the reads that go wrong.
    kinds: which faults, drawn with equal chances.
    stall: seconds for which a stalled body stops.
    retry_after: seconds that a 429 asks for.
    seed: seed of the faults.
    ranges: whether it knows Range; otherwise it sends whole files.
    port: 0 for a free one.
  """

  def __init__(
      self,
      folder: Path,
      *,
      latency: float = 0.0,
      faults: float = 0.0,
      kinds: tuple[str, ...] = FAULTS,
      stall: float = 20.0,
      retry_after: int = 1,
      seed: int = 0,
      ranges: bool = True,
      port: int = 0,
  ):
    self.folder, self.latency = Path(folder), latency
    self.faults, self.kinds, self.stall = faults, kinds, stall
    self.retry_after, self.ranges = retry_after, ranges
    self.ended = threading.Event()
    # "GET", "HEAD", "LIST", "PUT", "bytes", and each kind of fault -> how many.
    self.counts = collections.Counter()
    self.most_at_once = 0  # reads that were in flight together
    self._rng, self._lock = random.Random(seed), threading.Lock()
    self._open = 0
    handler = type("Handler", (_Handler,), {"owner": self})
    self._server = _Server(("127.0.0.1", port), handler)

  @property
  def url(self) -> str:
    """The address, without a slash at the end."""
    return f"http://127.0.0.1:{self._server.server_port}"

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self.ended.set()
    self._server.shutdown()
    self._server.server_close()

  def count(self, what: str, number: int = 1) -> None:
    """Adds to a counter."""
    with self._lock:
      self.counts[what] += number

  def fault(self) -> str | None:
    """Draws what goes wrong with a read, or None."""
    with self._lock:
      if self._rng.random() >= self.faults:
        return None
      kind = self._rng.choice(self.kinds)
      self.counts[kind] += 1
      return kind

  @contextlib.contextmanager
  def in_flight(self):
    """Counts a read until the end of `with`."""
    with self._lock:
      self._open += 1
      self.most_at_once = max(self.most_at_once, self._open)
    try:
      yield
    finally:
      with self._lock:
        self._open -= 1


class _Server(ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 512


class _Handler(BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  owner: RangeServer

  def log_message(self, format, *args):  # pylint: disable=redefined-builtin
    pass

  def do_HEAD(self):
    self.owner.count("HEAD")
    time.sleep(self.owner.latency)
    if (path := self._path()) is not None:
      self._head(HTTPStatus.OK, path, path.stat().st_size)

  def do_GET(self):
    query = parse_qs(urlsplit(self.path).query)
    if "list-type" in query:
      self.owner.count("LIST")
      time.sleep(self.owner.latency)
      self._list(query)
      return
    self.owner.count("GET")
    with self.owner.in_flight(), contextlib.suppress(ConnectionError):
      time.sleep(self.owner.latency)
      if (path := self._path()) is not None:
        self._get(path)

  def do_PUT(self):
    self.owner.count("PUT")
    path = self.owner.folder / self._name()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
    self.send_response(HTTPStatus.OK)
    self.send_header("ETag", etag(path))
    self.send_header("Content-Length", "0")
    self.end_headers()

  def _name(self) -> str:
    return unquote(urlsplit(self.path).path).strip("/")

  def _path(self) -> Path | None:
    """Returns the file that is asked for, or answers 404 or 403."""
    path = self.owner.folder / self._name()
    if "forbidden" in path.name:
      self._end(HTTPStatus.FORBIDDEN)
    elif not path.is_file():
      self._end(HTTPStatus.NOT_FOUND)
    else:
      return path
    return None

  def _get(self, path: Path) -> None:
    size = path.stat().st_size
    start, end = self._range(size)
    if self._asked() and start >= size:
      self._end(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
      return
    fault = self.owner.fault()
    match = self.headers.get("If-Match")
    if match not in (None, "*", etag(path)):
      self._end(HTTPStatus.PRECONDITION_FAILED)
    elif fault == "503":
      self._end(HTTPStatus.SERVICE_UNAVAILABLE)
    elif fault == "429":
      after = {"Retry-After": str(self.owner.retry_after)}
      self._end(HTTPStatus.TOO_MANY_REQUESTS, after)
    else:
      self._body(path, start, end, fault)

  def _body(self, path: Path, start: int, end: int, fault: str | None) -> None:
    size = path.stat().st_size
    sent = (end - start) // 2 if fault else end - start
    if fault == "short":
      end = start + sent
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    partial = bool(self._asked())
    status = HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK
    self._head(status, path, end - start, headers if partial else {})
    self.owner.count("bytes", sent)
    with path.open("rb") as file:
      file.seek(start)
      for left in range(sent, 0, -_PIECE):
        self.wfile.write(file.read(min(left, _PIECE)))
    if fault == "stall":
      self.owner.ended.wait(self.owner.stall)
    if fault:
      self.close_connection = True

  def _asked(self) -> str:
    """Returns the range that is asked for, or an empty string."""
    return self.headers.get("Range", "") if self.owner.ranges else ""

  def _range(self, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", self._asked())
    if not found:
      return 0, size
    return int(found[1]), min(int(found[2] or size) + 1, size)

  def _head(self, status, path: Path, length: int, headers=None) -> None:
    self.send_response(status)
    self.send_header("ETag", etag(path))
    self.send_header("Accept-Ranges", "bytes")
    self.send_header("Content-Length", str(length))
    self.send_header(
        "Last-Modified", self.date_time_string(int(path.stat().st_mtime))
    )
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.end_headers()

  def _end(self, status: HTTPStatus, headers=None) -> None:
    """Answers with a status alone."""
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header("Content-Length", "0")
    self.end_headers()

  def _list(self, query) -> None:
    """Answers with one page: the files whose names begin with a prefix."""
    bucket = self.owner.folder / self._name()
    prefix = query.get("prefix", [""])[0]
    delimiter = query.get("delimiter", [None])[0]
    entries, folders = [], set()
    for path in sorted(p for p in bucket.rglob("*") if p.is_file()):
      name = path.relative_to(bucket).as_posix()
      if not name.startswith(prefix):
        continue
      first, slash, _ = name[len(prefix) :].partition("/")
      if delimiter and slash:
        folders.add(f"{prefix}{first}/")
      else:
        entries.append(_entry(name, path))
    entries += [
        f"<CommonPrefixes><Prefix>{saxutils.escape(f)}</Prefix></CommonPrefixes>"
        for f in sorted(folders)
    ]
    body = (
        '<?xml version="1.0"?><ListBucketResult>'
        f"<Prefix>{saxutils.escape(prefix)}</Prefix>"
        f"<KeyCount>{len(entries)}</KeyCount><IsTruncated>false</IsTruncated>"
        f"{''.join(entries)}</ListBucketResult>"
    ).encode()
    self.send_response(HTTPStatus.OK)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)


def _entry(name: str, path: Path) -> str:
  """Returns a file as an element of a listing."""
  stat = path.stat()
  changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))
  return (
      f"<Contents><Key>{saxutils.escape(name)}</Key>"
      f"<LastModified>{changed}</LastModified>"
      f"<ETag>{saxutils.escape(etag(path))}</ETag>"
      f"<Size>{stat.st_size}</Size></Contents>"
  )


def etag(path: Path) -> str:
  """Returns a value that changes when the file does."""
  stat = path.stat()
  return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def main() -> None:
  """Serves until it is interrupted, then prints what it did."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", type=Path)
  parser.add_argument("--latency", type=float, default=0.05)
  parser.add_argument("--faults", type=float, default=0.05)
  parser.add_argument("--stall", type=float, default=20.0)
  parser.add_argument("--port", type=int, default=0)
  args = parser.parse_args()
  with RangeServer(**vars(args)) as server:
    print(server.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
      threading.Event().wait()
    print(dict(server.counts))


if __name__ == "__main__":
  main()
