"""Batches in one memory: places, types, and when a place is free again."""

import gc
import os

import jax
import numpy as np
import pytest

from siglip_jax.data.loader import ring as ring_lib
from siglip_jax.errors import UserError

EXAMPLE = {
    "image": np.arange(5, dtype=np.uint8),
    "label": np.int32(7),
    "text": "a",
    "raw": b"\0\0",
    "scores": [0.5, 1.5],
    "lists": [[1], [2, 3]],
}


def layout(**example):
  return ring_lib.Layout.of(example or EXAMPLE)


def place(example, like):
  ring = ring_lib.Ring(layout(**like), rows=2, slots=1)
  return ring.layout.place(example, ring.arrays(0), 1, {})


def test_numbers_lie_in_the_ring_and_other_values_do_not():
  found = layout()
  assert {k: (s, str(d)) for k, (s, d) in found.arrays.items()} == {
      "image": ((5,), "uint8"),
      "label": ((), "int32"),
      "scores": ((2,), "float64"),
  }
  assert found.others == ("text", "raw", "lists")


def test_examples_lie_in_their_rows_and_slots():
  ring = ring_lib.Ring(layout(), rows=3, slots=2)
  for slot in (0, 1):
    for row in range(3):
      number = np.int32(10 * slot + row)
      example = EXAMPLE | {"label": number, "text": f"{number}"}
      others = ring.layout.place(example, ring.arrays(slot), row, {})
      assert others == {k: example[k] for k in ring.layout.others}
  assert ring.arrays(1)["label"].tolist() == [10, 11, 12]
  assert ring.arrays(0)["label"].tolist() == [0, 1, 2]
  assert (ring.arrays(0)["image"] == EXAMPLE["image"]).all()
  starts = [a.ctypes.data % 64 for a in ring.arrays(1).values()]
  assert not any(starts)


def test_what_is_moved_early_is_not_copied_again_unless_it_changed():
  ring = ring_lib.Ring(layout(), rows=2, slots=1)
  rows = ring.arrays(0)
  moved = ring.layout.move(EXAMPLE | {"text": "b"}, rows, 1)
  assert moved.keys() == {"image"}
  assert np.shares_memory(moved["image"], rows["image"][1])
  rows["image"][1, 0] = 99
  ring.layout.place(EXAMPLE | moved, rows, 1, moved)
  assert rows["image"][1].tolist() == [99, 1, 2, 3, 4]
  turned = EXAMPLE | {"image": moved["image"][::-1]}
  ring.layout.place(turned, rows, 1, moved)
  assert rows["image"][1].tolist() == [4, 3, 2, 1, 99]


def test_values_of_other_shapes_types_and_names_are_refused():
  match = r"'x' .* one shape; got \[\(2,\), \(3,\)\]\. .*resize"
  with pytest.raises(UserError, match=match):
    place({"x": np.zeros(3)}, {"x": np.zeros(2)})
  with pytest.raises(UserError, match="one type; got uint8 and float64"):
    place({"x": np.zeros(2)}, {"x": np.zeros(2, np.uint8)})
  place({"x": np.zeros(2, np.uint8)}, {"x": np.zeros(2)})  # which fit
  with pytest.raises(UserError, match="same values, x, t; one has only x"):
    place({"x": np.zeros(2)}, {"x": np.zeros(2), "t": "text"})


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a["image"],
        lambda a: a["label"].reshape(-1, 1)[1:],
        lambda a: memoryview(a["image"]),
    ],
)
def test_a_slot_is_free_when_no_view_of_it_is_left(view):
  freed = []
  ring = ring_lib.Ring(layout(), rows=4, slots=2)
  arrays = ring.arrays(1, freed.append)
  kept = view(arrays)
  del arrays
  assert not freed
  del kept
  assert freed == [1]


def test_a_slot_is_not_free_while_jax_uses_it_where_it_lies():
  """On CPUs JAX makes no copy of memory that is aligned."""
  freed = []
  ring = ring_lib.Ring(layout(x=np.zeros(64, np.float32)), rows=4, slots=1)
  arrays = ring.arrays(0, freed.append)
  on_device = jax.device_put(arrays["x"], jax.devices()[0])
  on_device.block_until_ready()
  del arrays
  if not freed:  # otherwise JAX copied it
    del on_device
    gc.collect()
    jax.device_put(np.zeros(1)).block_until_ready()  # JAX drops its references
    assert freed == [0]


def test_processes_share_a_ring_through_a_file_without_a_name():
  memory = ring_lib.memory_file()
  try:
    rings = [
        ring_lib.Ring(layout(), rows=2, slots=3, file=memory) for _ in range(2)
    ]
    assert os.fstat(memory).st_nlink == 0
  finally:
    os.close(memory)
  rings[0].arrays(2)["label"][1] = 5
  assert rings[1].arrays(2)["label"].tolist() == [0, 5]


def test_other_systems_have_a_temporary_file(monkeypatch):
  monkeypatch.delattr(os, "memfd_create")
  memory = ring_lib.memory_file()
  ring = ring_lib.Ring(layout(), rows=2, slots=1, file=memory)
  ring.arrays(0)["label"][:] = 3
  assert os.fstat(memory).st_nlink == 0 and os.fstat(memory).st_size > 0
  os.close(memory)
