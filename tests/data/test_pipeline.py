"""Batches: the same on any number of threads, workers and processes."""

import hashlib
import io

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import images
from siglip_jax.data import pipeline
from siglip_jax.data.cache import Cache
from siglip_jax.data.loader import examples as examples_lib
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError

N = 13


def numbered(bad=(), n=N):
  return fakes.ListSource(
      [
          {
              "image": b"" if i in bad else fakes.png((i, 0, 0), 4),
              "number": np.int32(i),
          }
          for i in range(n)
      ]
  )


def batches(
    source=None, pp='decode|affine()|keep("image","number")', **options
):
  options = {"batch_size": 4, "seed": 0, "total_steps": 9} | options
  return list(
      pipeline.train_iterator(
          numbered() if source is None else source, Preprocess(pp), **options
      )
  )


def assert_same(got, expected):
  assert len(got) == len(expected)
  for a, b in zip(got, expected, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_batches_hold_bytes_and_numbers():
  (batch,) = batches(total_steps=1)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
      "image": ((4, 4, 4, 3), np.uint8),
      "number": ((4,), np.int32),
      "replaced": ((4,), np.int32),
  }
  assert batch["replaced"].tolist() == [-1] * 4


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("bad", [(), (3, 7)])
def test_processes_share_the_batches_of_one(count, bad):
  parts = [
      batches(numbered(bad), process_index=i, process_count=count)
      for i in range(count)
  ]
  joined = [
      {k: np.concatenate([p[k] for p in ps]) for k in ps[0]}
      for ps in zip(*parts, strict=True)
  ]
  assert_same(joined, batches(numbered(bad)))


@pytest.mark.parametrize("start", [0, 1, 5, 9, 10])
def test_a_run_goes_on_where_it_stopped(start):
  assert_same(batches(start_step=start), batches()[start:])


def test_a_longer_run_begins_like_a_shorter_one():
  assert_same(batches(total_steps=20)[:9], batches())


def test_another_seed_is_another_order():
  first, other = (batches(seed=seed)[0]["number"] for seed in (0, 1))
  assert first.tolist() != other.tolist()


@pytest.mark.parametrize("threads", [0, 1, 7])
def test_threads_do_not_change_batches(threads):
  assert_same(batches(num_threads=threads), batches())


def test_workers_do_not_change_batches():
  assert_same(
      batches(numbered([3]), num_workers=2, start_step=1),
      batches(numbered([3]), start_step=1),
  )


@pytest.mark.parametrize("room", [200, 10**6])  # some of it, all of it
def test_the_cache_changes_what_is_read_and_nothing_else(room, monkeypatch):
  expected = batches(numbered([3]), total_steps=20)
  monkeypatch.setattr(pipeline, "Cache", lambda _: Cache(room))
  got = batches(numbered([3]), cache_mb=1, total_steps=20, num_threads=7)
  assert_same(got, expected)


def test_with_the_cache_each_image_is_decoded_once(monkeypatch):
  read = []
  decode = images.decode
  monkeypatch.setattr(
      images, "decode", lambda x, **kw: read.append(x) or decode(x, **kw)
  )
  batches(cache_mb=1, total_steps=20, num_threads=0)
  assert len(read) == N
  read.clear()
  batches(cache_mb=0, total_steps=20, num_threads=0)
  assert len(read) == 80


def test_every_epoch_has_everything_once_in_another_order():
  whole = batches(total_steps=26)
  numbers = np.concatenate([b["number"] for b in whole]).reshape(-1, N)
  for epoch in numbers:
    assert sorted(epoch) == list(range(N))
  assert len({tuple(e) for e in numbers}) == len(numbers)


def test_random_operations_differ_from_one_epoch_to_the_next():
  noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
  source = fakes.ListSource([{"image": noise}])
  got = batches(source, "color_jitter(0.9)", total_steps=2)
  images = np.concatenate([b["image"] for b in got])
  assert len({p.tobytes() for p in images}) == len(images)


def test_bad_images_are_replaced_in_their_slot_and_logged(monkeypatch):
  log = []
  monkeypatch.setattr(
      examples_lib.logging,
      "warning",
      lambda text, *args: log.append(text % args),
  )
  good = np.concatenate([b["number"] for b in batches()])
  bad = range(7)
  got = batches(numbered(bad))
  numbers = np.concatenate([b["number"] for b in got])
  replaced = np.concatenate([b["replaced"] for b in got])
  np.testing.assert_array_equal(
      replaced, np.where(np.isin(good, bad), good, -1)
  )
  assert not np.isin(numbers, bad).any()
  np.testing.assert_array_equal(numbers[replaced < 0], good[replaced < 0])
  assert "Replaced record 5: the file is empty" in log


def test_data_that_cannot_be_read_at_all_end_the_run():
  with pytest.raises(UserError, match="16 .* last one was record .: .*empty"):
    batches(numbered(range(N)))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: batches(numbered(n=0)), "empty"),
        (lambda: batches(process_count=3), "multiple of 3, got 4"),
        (lambda: batches(pp='choice("x")'), "choice cannot be applied"),
    ],
)
def test_what_the_user_can_mend(call, match):
  with pytest.raises(UserError, match=match):
    call()


def test_images_of_several_sizes_need_a_resize():
  source = fakes.ListSource(
      [{"image": fakes.png((1, 1, 1), s)} for s in (4, 5, 6, 7)]
  )
  with pytest.raises(UserError, match="'image' .* one shape.*resize"):
    batches(source, "decode")
  assert batches(source, "decode|resize(4)")[0]["image"].shape == (4, 4, 4, 3)


def test_no_steps_are_no_batches():
  assert batches(total_steps=0) == []


def evaluate(source, count=1, **options):
  pp = Preprocess("decode|color_jitter(0.5)|resize(4)")
  return [
      list(
          pipeline.eval_batches(
              source,
              pp,
              batch_size=8,
              process_index=i,
              process_count=count,
              **options,
          )
      )
      for i in range(count)
  ]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 8, 13])
def test_evaluation_sees_each_image_once_in_order(count, n):
  pp = Preprocess("decode|resize(4)")
  seen = []
  for step in zip(
      *(
          pipeline.eval_batches(
              numbered(n=n),
              pp,
              batch_size=8,
              process_index=i,
              process_count=count,
          )
          for i in range(count)
      ),
      strict=True,
  ):
    assert all(len(b["mask"]) == 8 // count for b in step)
    for b in step:
      seen += b["image"][b["mask"], 0, 0, 0].tolist()
  assert seen == list(range(n))


def test_evaluation_draws_the_same_every_time():
  assert_same(evaluate(numbered())[0], evaluate(numbered(), num_threads=7)[0])


def test_evaluation_replaces_nothing():
  with pytest.raises(UserError, match="record 2 cannot be read: .* repair"):
    evaluate(numbered([2]))
  with pytest.raises(UserError, match="empty"):
    evaluate(numbered(n=0))


def test_evaluation_reads_in_worker_processes_as_the_run_does():
  got = evaluate(numbered(), num_threads=3, num_workers=1, prefetch=1)
  assert_same(got[0], evaluate(numbered())[0])


def patterned(bad=(3, 7)):
  """Images of several sizes, some of which cannot be read."""
  records = []
  for i in range(N):
    file = io.BytesIO()
    Image.fromarray(fakes.ramp(9 + i, 12)).save(file, format="png")
    image = b"" if i in bad else file.getvalue()
    records.append({"image": image, "number": np.int32(i)})
  return fakes.ListSource(records)


@pytest.mark.parametrize(
    "options, digest",
    [
        ({}, "e735bd4ee4c7733c"),
        ({"start_step": 3, "start_example": 10}, "d77b50137c53eb02"),
        ({"process_index": 1, "process_count": 2}, "72dc42568586b08b"),
    ],
)
def test_batches_are_what_they_were_at_first_bit_for_bit(options, digest):
  sha = hashlib.sha256()
  pp = 'decode|random_crop(6)|flip_lr|keep("image","number")'
  for batch in batches(patterned(), pp, seed=5, total_steps=11, **options):
    for key in ("image", "number", "replaced"):
      sha.update(batch[key].tobytes())
  assert sha.hexdigest()[:16] == digest


def test_a_worker_process_reads_the_same_bits():
  pp = 'decode|random_crop(6)|flip_lr|keep("image","number")'
  options = {"seed": 5, "total_steps": 11}
  assert_same(
      batches(patterned(), pp, num_workers=2, num_threads=3, **options),
      batches(patterned(), pp, **options),
  )


def test_prefetch_must_be_positive():
  with pytest.raises(UserError, match="prefetch must be a positive .* got 0"):
    batches(prefetch=0)


def stream(count, **options):
  """The examples of a run in order, from the batches of all processes."""
  parts = [
      batches(process_index=i, process_count=count, **options)
      for i in range(count)
  ]
  shares = [share for step in zip(*parts, strict=True) for share in step]
  return {k: np.concatenate([s[k] for s in shares]) for k in shares[0]}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("bad", [(), (3, 7)])
def test_a_run_goes_on_at_the_same_example_with_another_batch_size(count, bad):
  source = numbered(bad)
  whole = stream(1, source=source, total_steps=14)  # 56 of 13
  before = stream(count, source=source, total_steps=6)
  after = stream(
      count,
      source=source,
      batch_size=8,
      start_step=6,
      start_example=24,
      total_steps=10,
  )
  joined = {k: np.concatenate([before[k], after[k]]) for k in whole}
  assert_same([joined], [whole])


def test_a_position_within_a_batch_is_kept():
  whole = stream(1, total_steps=3)
  rest = stream(1, start_step=50, start_example=5, total_steps=51)
  assert_same([rest], [{k: v[5:9] for k, v in whole.items()}])


def test_what_preprocessing_refuses_is_named_by_record():
  texts = [{"image": fakes.png((i, 0, 0), 4), "text": ["a"]} for i in range(3)]
  source = fakes.ListSource(texts)
  with pytest.raises(
      UserError, match="^record .: lower cannot be applied to a"
  ):
    batches(source, "decode|lower")
  with pytest.raises(UserError, match="^record 0: A crop of 9 pixels"):
    list(
        pipeline.eval_batches(
            source, Preprocess("decode|central_crop(9)"), batch_size=1
        )
    )


def test_files_that_cannot_be_opened_are_replaced_or_named(monkeypatch):
  class Torn(fakes.ListSource):

    def __getitem__(self, index):
      if index == 2:
        raise OSError(5, "Input/output error")
      return super().__getitem__(index)

  source = Torn([{"image": fakes.png((i, 0, 0), 4)} for i in range(4)])
  assert 2 in batches(source, "decode", total_steps=1)[0]["replaced"]
  with pytest.raises(UserError, match="record 2 cannot be read: .*Input/outp"):
    evaluate(source)
