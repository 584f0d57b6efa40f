"""Are all processes there? Asked over plain TCP, before JAX is.

JAX's own joining ends in SIGABRT and names nobody when one process is missing.
This uses the same port, so a closed port is found as well.
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
    count: of processes.
    index: of this one.
    seconds: limit.

  Raises:
    TryAgain: some process did not come, or process 0 cannot be reached.
    UserError: two processes have one index.
  """
  host, _, port = coordinator.rpartition(":")
  end = time.monotonic() + seconds
  if index == 0:
    missing = _count_all(int(port), count, end)
  else:
    missing = _answer(host, int(port), index, end, seconds)
  if missing:
    raise TryAgain(
        f"{named(missing)} of {count} did not come to {coordinator} within"
        f" {seconds:g} s. Look at the log there, then start the same command"
        " again on all."
    )


def _count_all(port: int, count: int, end: float) -> set[int]:
  """Process 0: hears all others, tells them who is missing."""
  came: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port, end))
    while len(came) < count - 1 and (left := end - time.monotonic()) > 0:
      server.settimeout(left)
      try:
        connection = stack.enter_context(server.accept()[0])
        connection.settimeout(left)
        said = connection.makefile().readline().split()
      except OSError:
        continue
      if len(said) != 2 or said[0] != "siglip":
        continue  # Not one of ours.
      who = int(said[1])
      if who in came:
        raise UserError(
            f"Each process has its own --process_id; two came as {who}."
        )
      came[who] = connection
    missing = set(range(1, count)) - came.keys()
    for connection in came.values():
      with contextlib.suppress(OSError):
        connection.sendall(f"missing {sorted(missing)}\n".encode())
  return missing


def _listen(port: int, end: float) -> socket.socket:
  while True:
    try:
      return socket.create_server(("", port))
    except OSError as e:  # An earlier run may be about to leave it.
      if time.monotonic() > end:
        raise TryAgain(
            f"Port {port} of worker 0 is taken: {e.strerror}."
        ) from e
      time.sleep(_RETRY)


def _answer(
    host: str, port: int, index: int, end: float, seconds: float
) -> set[int]:
  """The others: call process 0 until it tells who is missing."""
  reason = "no answer"
  while (left := end - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=left) as connection:
        connection.sendall(f"siglip {index}\n".encode())
        # Process 0 may be a little later to give up.
        connection.settimeout(left + 5)
        said = connection.makefile().readline()
      if said.startswith("missing ["):
        inside = said.removeprefix("missing [").strip().rstrip("]")
        return {int(i) for i in inside.split(",") if i.strip()}
    except OSError as e:
      reason = e.strerror or str(e)
    time.sleep(_RETRY)
  raise TryAgain(
      f"Worker {index} could not reach worker 0 at {host}:{port} within"
      f" {seconds:g} s: {reason}. It is not running, or the port is closed."
  )
