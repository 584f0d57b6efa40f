"""Batches read ahead: complete, valid as long as they are used, then gone."""

import contextlib
import gc
from pathlib import Path
import sys
import threading
import time

from fake_examples import Numbers
from fake_examples import workers
import numpy as np
import psutil
import pytest

from siglip_jax.data.loader.batches import Batches
from siglip_jax.errors import UserError


class Counting(Numbers):
  """Numbers that count how many were read."""

  def __init__(self, *args, **options):
    super().__init__(*args, **options)
    self.read = 0

  def begin(self, batch, row):
    self.read += 1
    return super().begin(batch, row)


def settled(examples):
  """The number of examples that were read, once it stays the same."""
  before = -1
  while before != examples.read:
    before = examples.read
    time.sleep(0.1)
  return before


def readers():
  return [t for t in threading.enumerate() if "_read" in t.name]


@pytest.mark.parametrize("threads", [0, 1, 7])
@pytest.mark.parametrize("count, rows", [(0, 3), (1, 1), (1, 5), (40, 3)])
def test_batches_come_whole_and_in_order(threads, count, rows):
  examples = Counting(count, rows)
  number = -1
  for number, batch in enumerate(Batches(examples, num_threads=threads)):
    examples.check(batch, number)
  assert number == count - 1
  assert examples.read == count * rows  # each once
  assert not readers()


def test_batches_that_are_kept_stay_as_they_are():
  examples = Numbers(30, 3)
  kept = list(Batches(examples, prefetch=2))
  for number, batch in enumerate(kept):
    examples.check(batch, number)


def test_a_view_keeps_a_batch_and_the_last_one_gives_it_back():
  examples = Numbers(30, 4)
  batches = Batches(examples, prefetch=1)
  views = {}
  for number, batch in enumerate(batches):
    if number in (0, 5):
      views[number] = batch["image"].reshape(2, -1)[1:, ::2]
    del batch
  for number, view in views.items():
    assert view.ravel().tolist() == [4 * number + 2, 4 * number + 3]


def test_a_consumer_that_keeps_nothing_gets_no_copies():
  batches = Batches(Numbers(20, 4, shape=(64,)), prefetch=2)
  places = {b["image"].ctypes.data for b in batches}
  assert 1 < len(places) <= 4  # the slots


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_read_ahead_than_the_ring_holds(prefetch):
  examples = Counting(50, 4)
  batches = Batches(examples, prefetch=prefetch, num_threads=3)
  first = next(batches)
  assert settled(examples) == (prefetch + 2) * 4
  del first
  assert settled(examples) == (prefetch + 3) * 4
  batches.close()


def test_nothing_is_read_before_the_first_batch_is_asked_for():
  examples = Counting(5, 4)
  batches = Batches(examples)
  assert settled(examples) == 0
  next(batches)
  assert examples.read


def test_an_error_is_raised_where_its_batch_is_expected():
  errors = {14: UserError("second"), 13: UserError("first")}
  examples = Numbers(9, 4, errors=errors)
  batches = Batches(examples, num_threads=5)
  for number in range(3):
    examples.check(next(batches), number)
  with pytest.raises(UserError, match="first"):
    next(batches)
  assert list(batches) == [] and not readers()


def test_the_first_example_may_be_in_error():
  batches = Batches(Numbers(2, 4, errors={0: UserError("the first")}))
  with pytest.raises(UserError, match="the first"):
    next(batches)
  assert not readers()


@pytest.mark.parametrize(
    "end", [lambda b: b.close(), lambda b: None], ids=["closed", "forgotten"]
)
def test_threads_end_with_the_iterator(end):
  batches = Batches(Numbers(1000, 4, seconds=0.001), num_threads=3)
  next(batches)
  assert len(readers()) == 3
  end(batches)
  del batches
  gc.collect()
  assert not readers()


def test_many_reads_are_in_flight_at_once():
  """64 threads read 512 examples, 50 ms away, in 8 rounds."""
  examples = Numbers(20, 512, seconds=0.05)
  begin = time.monotonic()
  batches = Batches(examples, num_threads=64)
  next(batches)
  assert time.monotonic() - begin < 1.5  # 25.6 s in one thread
  batches.close()


def test_other_values_are_arrays_of_texts_or_of_objects():
  class Objects(Numbers):

    def finish(self, begun):
      more = lambda n: {"raw": b"\0" * (n + 1), "lists": [str(n)] * 2}
      values = super().finish(begun)
      return [v | more(int(v["number"])) for v in values]

  (batch,) = Batches(Objects(1, 3))
  assert batch["text"].dtype.kind == "U"
  assert batch["raw"].tolist() == [b"\0", b"\0\0", b"\0\0\0"]
  assert batch["lists"].tolist() == [["0"] * 2, ["1"] * 2, ["2"] * 2]


class Fetching:
  """Notes what a loader says to what fetches ahead of it."""

  def __init__(self, error_at=99):
    self.calls, self._error_at = [], error_at

  def advance(self, batches):
    self.calls.append(batches)
    if batches == self._error_at:
      raise UserError("changed")

  def close(self):
    self.calls.append("closed")


def test_what_fetches_ahead_hears_of_each_batch_and_of_the_end():
  ahead = Fetching()
  assert len(list(Batches(Numbers(3, 4), ahead=ahead))) == 3
  assert ahead.calls == [1, 2, 3, "closed"]


def test_an_error_in_fetching_ends_the_batches():
  ahead = Fetching(error_at=2)
  batches = Batches(Numbers(9, 4), ahead=ahead)
  next(batches)
  with pytest.raises(UserError, match="changed"):
    next(batches)
  assert ahead.calls == [1, 2, "closed"]


def test_a_batch_can_be_changed_by_who_uses_it():
  batches = Batches(Numbers(9, 4), prefetch=1)
  for number, batch in enumerate(batches):
    assert batch["number"][0] == 4 * number
    batch["image"][:] = 255
    assert isinstance(batch["image"], np.ndarray)


def memory(name: str) -> int:
  """The bytes of this process and its workers; shared ones count once."""
  me, total = psutil.Process(), 0
  for process in (me, *workers()):
    with contextlib.suppress(OSError):
      lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
      (size,) = (line for line in lines if line.startswith(f"{name}:"))
      total += 1024 * int(size.split()[1])
  return total


def peak(size: int, workers: int, threads: int, prefetch: int) -> int:
  """The most memory while images of some bytes are read and used.

  What the processes share is measured at the end, when nobody writes there and
  all of it is in use: they are looked at one after the other.
  """
  examples = Numbers(16, 512, shape=(size,))
  batches = Batches(
      examples, num_workers=workers, num_threads=threads, prefetch=prefetch
  )
  own = shared = 0
  for batch in batches:
    own = max(own, memory("Pss_Anon") + memory("Pss_File"))
    shared = memory("Pss_Shmem")
    del batch
  return own + shared


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PSS")
@pytest.mark.parametrize("workers, threads", [(0, 2), (2, 2), (4, 16)])
def test_memory_depends_on_prefetch_and_not_on_threads_or_workers(
    workers, threads
):
  """The ring has prefetch + 2 batches; decoding gets the room of one more."""
  size, prefetch = 32_768, 3
  empty = peak(1, workers, threads, prefetch)
  used = peak(size, workers, threads, prefetch) - empty
  assert used <= (prefetch + 3) * 512 * size
  assert used >= (prefetch + 1) * 512 * size  # it measures something
