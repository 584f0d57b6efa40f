"""Tasks: rows in small parts, what they leave behind, and their errors."""

from fake_examples import Numbers
import numpy as np
import pytest

from siglip_jax.data.loader import chunks
from siglip_jax.data.loader.ring import Layout
from siglip_jax.data.loader.ring import Ring
from siglip_jax.errors import UserError


def run(examples, task, stopped=lambda: False):
  layout = Layout.of(chunks.one(examples, 0, 0))
  rows = Ring(layout, examples.rows, slots=2).arrays(task.slot)
  return chunks.run(task, examples, layout, rows, stopped), rows


@pytest.mark.parametrize(
    "in_flight, total, size",
    [(2, 4096, 32), (64, 512, 8), (256, 512, 2), (64, 8, 1), (1, 20, 20)],
)
def test_chunks_keep_all_threads_busy_and_are_not_large(in_flight, total, size):
  found = chunks.split(range(1, total), in_flight, total)
  assert [row for chunk in found for row in chunk] == list(range(1, total))
  assert {len(chunk) for chunk in found[:-1]} <= {size}


def test_a_task_fills_its_rows_and_no_others():
  examples = Numbers(3, 4)
  done, rows = run(examples, chunks.Task(batch=2, slot=1, first=1, end=3))
  assert done.error is None
  assert rows["number"].tolist() == [0, 9, 10, 0]
  assert rows["image"][:, 0].tolist() == [0, 9, 10, 0]
  assert list(done.others) == [{"text": "text 9"}, {"text": "text 10"}]


@pytest.mark.parametrize("error", [UserError("bad"), SystemExit(3)])
def test_an_error_says_at_which_row(error):
  examples = Numbers(3, 4, errors={10: error})
  done, _ = run(examples, chunks.Task(batch=2, slot=0, first=1, end=4))
  assert (done.error, done.row) == (error, 2)


def test_a_task_ends_when_nobody_waits_for_it():
  done, rows = run(Numbers(1, 4), chunks.Task(0, 0, 1, 4), lambda: True)
  assert isinstance(done.error, chunks.Stopped) and not rows["image"].any()


def test_what_preprocessing_leaves_alone_is_copied_once():
  """What `finish` gets lies in the batch already."""

  seen = []

  class Spy(Numbers):

    def finish(self, begun):
      seen.extend(one.record["image"] for one in begun)
      return super().finish(begun)

  _, rows = run(Spy(1, 4), chunks.Task(0, 0, 1, 4))
  for row, image in zip((1, 2, 3), seen[1:], strict=True):
    assert np.shares_memory(image, rows["image"][row])
