"""Checks over plain TCP that all processes are there, before JAX starts.

When a process is missing, JAX's own joining ends in SIGABRT and names no
process. This check uses the same port, so it also detects a closed port.
"""

import contextlib
import socket
import time

from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost.messages import named

_RETRY = 0.2  # seconds


def call(coordinator: str, *, count: int, index: int, seconds: float) -> None:
  """Returns once all `count` processes have called; process 0 counts them.

  Args:
    coordinator: host:port of process 0.
    count: number of processes.
    index: this process's index.
    seconds: time limit.

  Raises:
    TryAgain: some process did not call, or process 0 cannot be reached.
    UserError: two processes have the same index.
  """
  host, _, port = coordinator.rpartition(":")
  end = time.monotonic() + seconds
  if index == 0:
    missing = _count_all(int(port), count, end)
  else:
    missing = _call_first(host, int(port), index, end, seconds)
  if missing:
    raise TryAgain(
        f"{named(missing)} of {count} did not come to {coordinator} within"
        f" {seconds:g} s. Look at the log there, then start the same command"
        " again on all."
    )


def _count_all(port: int, count: int, end: float) -> set[int]:
  """Takes the others' calls on process 0, and tells them who is missing."""
  connections: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port, end))
    while len(connections) < count - 1 and (left := end - time.monotonic()) > 0:
      server.settimeout(left)
      try:
        connection = stack.enter_context(server.accept()[0])
        connection.settimeout(left)
        words = connection.makefile().readline().split()
      except OSError:
        continue
      if len(words) != 2 or words[0] != "siglip":
        continue  # Another program called.
      caller = int(words[1])
      if caller in connections:
        raise UserError(
            f"Each process has its own --process_id; two came as {caller}."
        )
      connections[caller] = connection
    missing = set(range(1, count)) - connections.keys()
    for connection in connections.values():
      with contextlib.suppress(OSError):
        connection.sendall(f"missing {sorted(missing)}\n".encode())
  return missing


def _listen(port: int, end: float) -> socket.socket:
  while True:
    try:
      return socket.create_server(("", port))
    except OSError as e:  # An earlier run may be about to release the port.
      if time.monotonic() > end:
        raise TryAgain(
            f"Port {port} of worker 0 is taken: {e.strerror}."
        ) from e
      time.sleep(_RETRY)


def _call_first(
    host: str, port: int, index: int, end: float, seconds: float
) -> set[int]:
  """Calls process 0 from another process until it tells who is missing."""
  reason = "no answer"
  while (left := end - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=left) as connection:
        connection.sendall(f"siglip {index}\n".encode())
        # Process 0 may give up a little later than this process.
        connection.settimeout(left + 5)
        reply = connection.makefile().readline()
      if reply.startswith("missing ["):
        inside = reply.removeprefix("missing [").strip().rstrip("]")
        return {int(i) for i in inside.split(",") if i.strip()}
    except OSError as e:
      reason = e.strerror or str(e)
    time.sleep(_RETRY)
  raise TryAgain(
      f"Worker {index} could not reach worker 0 at {host}:{port} within"
      f" {seconds:g} s: {reason}. It is not running, or the port is closed."
  )
