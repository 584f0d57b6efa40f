"""A worker process of the loader: reads rows of batches into shared memory.

It gets tasks from its parent, the run, and ends when the parent does.
"""

from multiprocessing import connection
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback

from absl import flags
from absl import logging
import cv2

from siglip_jax.data.loader import chunks
from siglip_jax.data.loader.ring import Ring
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

_LOOK = 0.5  # seconds between looks at the parent


def main(socket: int, memory: int, parent: int) -> None:
  """Works until the parent closes the socket, or ends.

  Args:
    socket: descriptor of the connection to the parent.
    memory: descriptor of the ring's memory.
    parent: the parent's process id.
  """
  # The parent decides when a run ends. Signals for a terminal's or a
  # scheduler's whole group of processes reach the workers, too.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_watch, args=(parent,), daemon=True).start()
  calls = connection.Connection(socket)
  try:
    try:
      work = _Work(calls, memory)
    except Exception:  # pylint: disable=broad-except
      calls.send(Failed(traceback.format_exc()))
      return
    work.run()
  except (EOFError, OSError):
    pass  # the parent is gone or needs no more
  finally:
    # Threads may be in the middle of a long read.
    sys.stderr.flush()
    os._exit(0)


class Failed(RuntimeError):
  """An error in a worker process, with its traceback."""


class _Work:
  """The tasks of a worker process, and the threads that do them."""

  def __init__(self, calls: connection.Connection, memory: int):
    verbosity, threads = calls.recv()
    logging.use_absl_handler()
    logging.set_verbosity(verbosity)
    flags.FLAGS.mark_as_parsed()  # absl's logging waits for it
    _import_grain()
    cv2.setNumThreads(1)  # its own threads would only get in each other's way
    examples, layout, slots = calls.recv()
    ring = Ring(layout, examples.rows, slots, memory)
    self._examples, self._layout = examples, layout
    self._arrays = [ring.arrays(slot) for slot in range(slots)]
    self._calls, self._lock = calls, threading.Lock()
    self._tasks: queue.SimpleQueue[chunks.Task] = queue.SimpleQueue()
    self._threads = threads

  def run(self) -> None:
    """Does tasks until the parent closes the connection."""
    for _ in range(self._threads):
      threading.Thread(target=self._serve, daemon=True).start()
    while True:
      self._tasks.put(self._calls.recv())

  def _serve(self) -> None:
    while True:
      task = self._tasks.get()
      done = chunks.run(
          task,
          self._examples,
          self._layout,
          self._arrays[task.slot],
          stopped=lambda: False,
      )
      content = _pickled(done)
      try:
        with self._lock:
          self._calls.send_bytes(content)
      except OSError:
        return  # the parent is gone


def _pickled(done: chunks.Done) -> bytes:
  """Returns what `Connection.recv` turns into `done`.

  An error of another kind than the user's becomes its text with the traceback.
  """
  error = done.error
  if error is not None and type(error) not in (UserError, TryAgain):
    if isinstance(error, UserError):
      error = UserError(str(error))
    else:
      error = Failed("".join(traceback.format_exception(error)))
    done = chunks.Done(done.task, error=error, row=done.row)
  try:
    return pickle.dumps(done)
  except Exception:  # pylint: disable=broad-except
    failed = Failed(traceback.format_exc())
    return pickle.dumps(chunks.Done(done.task, error=failed))


def _import_grain() -> None:
  """Imports Grain without JAX, which would take a second and 140 MB.

  Grain does without if it is not installed. Other modules may import it later.
  """
  if "jax" in sys.modules:
    return
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # Grain misses JAX's profiler
  sys.modules["jax"] = None  # pyright: ignore
  try:
    import grain
  finally:
    del sys.modules["jax"]
    logging.set_verbosity(before)
  del grain


def _watch(parent: int) -> None:
  """Ends this process when its parent is another one than at its start."""
  while os.getppid() == parent:
    time.sleep(_LOOK)
  os._exit(1)
