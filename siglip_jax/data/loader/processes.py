"""The worker processes of a loader, as the run sees them."""

from collections.abc import Callable
import json
from multiprocessing import connection
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading

from absl import logging
import cloudpickle

from siglip_jax.data.loader.chunks import Done
from siglip_jax.data.loader.chunks import Examples
from siglip_jax.data.loader.chunks import Task
from siglip_jax.data.loader.ring import Ring
from siglip_jax.errors import UserError

# Not multiprocessing: it would import the run's main module, and JAX with it,
# and start a process of its own that tracks resources, of which there are none.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from siglip_jax.data.loader import worker;"
    " worker.main(*map(int, sys.argv[2:]))"
)
_SECONDS = 5.0  # to wait for what is being ended

Tasks = queue.SimpleQueue[Task | None]


class Processes:
  """Worker processes, which import what they need while the run goes on.

  Args:
    count: number of processes.
    threads: number of threads in each.
    memory: descriptor of the memory that they share.
  """

  def __init__(self, count: int, threads: int, memory: int):
    self._threads = threads
    self._workers = [_Worker(threads, memory) for _ in range(count)]

  def start(
      self,
      examples: Examples,
      ring: Ring,
      tasks: Tasks,
      done: Callable[[Done], None],
      died: Callable[[Exception], None],
  ) -> None:
    """Lets the processes do tasks.

    Args:
      examples: what to read; a copy goes to each process.
      ring: where to read it to.
      tasks: the tasks. None ends the reading.
      done: function that is called with what became of a task.
      died: function that is called with an error when a process ends.
    """
    hello = pickle.dumps((logging.get_verbosity(), self._threads))
    # It also takes classes of a script or a notebook, which a process cannot
    # import.
    content = cloudpickle.dumps((examples, ring.layout, ring.slots))
    for worker in self._workers:
      worker.start([hello, content], tasks, done, died)

  def close(self) -> None:
    """Ends the processes."""
    for worker in self._workers:
      worker.end()
    for worker in self._workers:
      worker.join()


class _Worker:
  """One process, and the threads that send it tasks and hear from it."""

  def __init__(self, threads: int, memory: int):
    mine, other = socket.socketpair()
    with other:
      self._process = subprocess.Popen(
          [
              sys.executable,
              "-c",
              _CODE,
              json.dumps([str(path) for path in sys.path]),
              *map(str, (other.fileno(), memory, os.getpid())),
          ],
          stdin=subprocess.DEVNULL,
          pass_fds=(other.fileno(), memory),
      )
    self._calls = connection.Connection(mine.detach())
    self._ending = False
    self._listener: threading.Thread | None = None
    # One more task than threads: no thread waits for the next one.
    self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(threads + 1):
      self._room.put(None)
    self._first: queue.SimpleQueue[bytes] = queue.SimpleQueue()

  def start(self, messages, tasks, done, died) -> None:
    """Starts the two threads, which send the messages before any task."""
    for message in messages:
      self._first.put(message)
    self._listener = threading.Thread(
        target=self._listen, args=(done, died), daemon=True
    )
    self._listener.start()
    threading.Thread(target=self._send, args=(tasks,), daemon=True).start()

  def end(self) -> None:
    """Kills the process, which has nothing to save."""
    self._ending = True
    self._process.kill()
    self._room.put(None)  # lets the sender find out

  def join(self) -> None:
    """Waits until the process has ended."""
    if self._listener not in (None, threading.current_thread()):
      self._listener.join(_SECONDS)
    try:
      self._process.wait(_SECONDS)
    except subprocess.TimeoutExpired:  # it waits for a disk or a mount
      logging.warning("Loader worker %d does not end", self._process.pid)
    self._calls.close()

  def _send(self, tasks: Tasks) -> None:
    try:
      while not self._first.empty():  # they may be large, and are gone then
        self._calls.send_bytes(self._first.get())
      while not self._ending:
        self._room.get()
        task = tasks.get()
        if task is None:
          return
        self._calls.send(task)
    except OSError:
      pass  # the listener says so

  def _listen(self, done, died) -> None:
    try:
      while isinstance(message := self._calls.recv(), Done):
        self._room.put(None)
        done(message)
      died(message)
    except (EOFError, OSError):
      if not self._ending:
        died(_death(self._process))


def _death(process: subprocess.Popen) -> Exception:
  """Returns the error about a process that ended by itself."""
  try:
    status = process.wait(_SECONDS)
  except subprocess.TimeoutExpired:
    status = None
  name = f"A worker process of the loader ({process.pid})"
  if status is not None and status < 0:
    return UserError(
        f"{name} must live as long as the run; it was ended by"
        f" {signal.Signals(-status).name}. If the host was out of memory, lower"
        " config.data.num_workers, cache_mb or prefetch."
    )
  return RuntimeError(f"{name} ended with status {status}; see its output.")
