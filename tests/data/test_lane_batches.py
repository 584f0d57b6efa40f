"""Batches in an order of lanes, from blocks that are fetched before."""

from fake_examples import Fetched
import pytest

from siglip_jax.data import pipeline
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError


def batches(source, pp, **options):
  options = {"seed": 0} | options
  return list(pipeline.train_iterator(source, Preprocess(pp), **options))


LANES = {"batch_size": 8, "prefetch": 1, "order": {"lanes": 4, "window": 3}}


def rows(batches_of_processes):
  """The numbers of the batches of all processes, in the rows of the whole."""
  steps = zip(*batches_of_processes, strict=True)
  return [[n for b in step for n in b["number"].tolist()] for step in steps]


@pytest.mark.parametrize("count, workers", [(1, 0), (2, 0), (4, 0), (1, 2)])
def test_lanes_are_read_from_blocks_by_any_number_of_processes(
    tmp_path, count, workers
):
  sources = [Fetched(80, str(tmp_path)) for _ in range(count)]
  parts = []
  for index, source in enumerate(sources):
    options = dict(process_index=index, process_count=count)
    parts.append(
        batches(
            source,
            "keep('number', 'origin')",
            total_steps=20,
            num_workers=workers,
            **LANES,
            **options,
        )
    )
  whole = rows(parts)
  for epoch in (whole[:10], whole[10:]):
    assert sorted(n for step in epoch for n in step) == list(range(80))
  assert {o for part in parts for b in part for o in b["origin"]} == {"block"}
  assert not list(tmp_path.iterdir())
  expected = batches(
      Fetched(80, str(tmp_path)),
      "keep('number', 'origin')",
      total_steps=20,
      **LANES,
  )
  assert whole == rows([expected])


def test_a_run_goes_on_in_the_middle_of_lanes(tmp_path):
  whole, rest = (
      batches(
          Fetched(80, str(tmp_path)),
          "keep('number', 'origin')",
          total_steps=20,
          start_step=start,
          **LANES,
      )
      for start in (0, 13)
  )
  assert rows([rest]) == rows([whole])[13:]


def test_a_block_that_cannot_be_fetched_ends_the_run(tmp_path):
  source = Fetched(80, str(tmp_path), broken=15)
  with pytest.raises(UserError, match="block 15 has changed"):
    batches(source, "keep('number', 'origin')", total_steps=500, **LANES)
  assert not list(tmp_path.iterdir())
