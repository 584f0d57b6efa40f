"""A worker process: what it imports, and which signals it leaves alone."""

import os
import signal
import sys

from fake_examples import Modules
from fake_examples import Numbers
from fake_examples import workers

from siglip_jax.data.loader.batches import Batches


def test_a_worker_process_imports_grain_but_not_jax():
  """It starts in a third of the time, with a third of the memory."""
  (batch,) = Batches(Modules(1, 3), num_workers=1)
  assert "jax" in batch["text"][0].split(",")  # read by this process
  loaded = batch["text"][-1].split(",")
  assert "grain" in loaded
  assert not {"jax", "flax", "tensorflow", "torch"} & set(loaded)
  assert "jax" in sys.modules


def test_signals_for_the_whole_group_leave_workers_alive():
  """The run saves its state on SIGTERM, and may need batches until then."""
  examples = Numbers(50, 4)
  batches = Batches(examples, num_workers=1, prefetch=1)
  next(batches)
  (worker,) = workers()
  for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(worker.pid, number)
  for number, batch in enumerate(batches, 1):
    examples.check(batch, number)
  assert number == 49
