"""TensorBoard events: on disk at once, and forgotten from a step on."""

import events

from siglip_jax.metrics import board


def test_events_are_on_disk_when_write_returns(tmp_path):
  writer = board.Board(tmp_path / "new", purge=None)
  for step in range(1, 30):
    writer.write(step, {"a/b@1": step / 2, "c": 1.0})
    points = events.scalars(tmp_path / "new")
    assert points["a/b_1"][-1] == (step, step / 2)
    assert len(points["c"]) == step
  writer.close()


def test_a_later_file_forgets_what_earlier_ones_hold(tmp_path):
  # Neither was closed, as if its process had been killed.
  first = board.Board(tmp_path, purge=0)
  for step in (1, 2, 3):
    first.write(step, {"a": 1.0, "b": 1.0})
  second = board.Board(tmp_path, purge=2)
  second.write(2, {"a": 2.0})
  third = board.Board(tmp_path, purge=None)
  third.write(1, {"a": 3.0})
  points = events.scalars(tmp_path)
  assert points == {"a": [(1, 1.0), (2, 2.0), (1, 3.0)], "b": [(1, 1.0)]}
  assert len(list(tmp_path.iterdir())) == 3  # within a second
  for writer in (first, second, third):
    writer.close()
