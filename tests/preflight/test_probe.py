"""Images of evaluations are tried before the first step, all at once."""

from concurrent import futures
import threading

import fakes
import pytest

from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError
from siglip_jax.evals.retrieval import Retrieval
from siglip_jax.evals.zeroshot import Zeroshot
from siglip_jax.multihost.messages import Peers
from siglip_jax.preflight import probe

PP = Preprocess("decode|resize(8)|value_range(-1,1)")
RED = fakes.png((255, 0, 0))


class Counting(fakes.ListSource):
  """Images that count how often each was read; a list is what was read."""

  def __init__(self, images, name="record"):
    super().__init__([{"image": image, "text": ""} for image in images])
    self.name, self.reads = name, []

  def __getitem__(self, index):
    self.reads.append(index)
    return super().__getitem__(index)

  def key(self, index):
    return f"{self.name} {index}"

  def digest(self):
    return f"{self.name} of {len(self)}"


def evaluator(source):
  return Retrieval(dataset="d", source=source, texts=["t"] * len(source))


def check(sources, peers=None, *, pp=PP, size=8, **options):
  evaluators = {name: evaluator(source) for name, source in sources.items()}
  return probe.check(
      evaluators, pp, peers or Peers(), image_size=size, **options
  )


def test_good_images_are_each_tried_once():
  source = Counting([RED] * 5)
  tried = check({"a": source}, num_threads=3)
  assert sorted(source.reads) == [0, 1, 2, 3, 4]
  assert tried.keys() == {"a"}


def test_all_bad_images_are_told_at_once():
  class Lost(Counting):

    def __getitem__(self, index):
      if index == 3:
        raise ImageError("No such file")
      if index == 4:
        raise OSError("Stale file handle")
      return super().__getitem__(index)

  source = Lost([RED, RED[:40], b"", RED, RED, RED])
  with pytest.raises(UserError) as raised:
    check({"a": Counting([RED], "good"), "b": source})
  message = str(raised.value)
  assert "4 of config.evals.b cannot be read: record 1 (" in message
  assert "record 2 (the file is empty), record 3 (No such file)" in message
  assert "record 4 (Stale file handle). Repair" in message
  assert "record 0" not in message and "evals.a" not in message
  assert "\n" not in message


def test_of_many_bad_images_the_first_are_named():
  board = {}
  peers = fakes.BoardPeers(board, 0, 1)
  with pytest.raises(UserError) as raised:
    check({"a": Counting([b""] * 27), "b": Counting([b""], "other")}, peers)
  count, examples = board["eval_images"][0]["a"]
  assert (count, len(examples)) == (27, 20)  # messages must stay short
  message = str(raised.value)
  assert "27 of config.evals.a" in message and "and 7 more; 1 of" in message
  assert "record 19 " in message and "record 20 " not in message
  assert "1 of config.evals.b cannot be read: other 0" in message


def test_what_evaluation_would_refuse_is_bad():
  small = Preprocess("decode|central_crop(12)|value_range(-1,1)")
  with pytest.raises(UserError, match="record 1 .A crop of 12 pixels"):
    check({"a": Counting([RED, fakes.png((0, 0, 0), 8)])}, pp=small, size=12)
  uneven = Preprocess("decode|value_range(-1,1)")
  with pytest.raises(UserError, match=r"record 1 .*has shape \(8, 8, 3\)"):
    check({"a": Counting([RED, fakes.png((0, 0, 0), 8)])}, pp=uneven, size=16)
  source = fakes.ListSource([{"text": ""}])
  with pytest.raises(UserError, match="decode cannot be applied"):
    check({"a": source})


def test_an_evaluation_without_images_is_refused():
  empty = Zeroshot(
      dataset="d", source=Counting([]), class_names=["a"], labels=[]
  )
  with pytest.raises(UserError, match="config.evals.none has none"):
    probe.check({"none": empty}, PP, Peers(), image_size=8)


def test_what_was_tried_is_not_tried_again_unless_it_changed():
  source = Counting([RED] * 3)
  known = check({"a": source, "b": source})
  assert len(source.reads) == 3 and known["a"] == known["b"]
  again = check({"a": source, "c": source}, known=known)
  assert len(source.reads) == 3 and again.keys() == {"a", "c"}
  for changes in (
      dict(pp=Preprocess("decode|resize(8)|grayscale|value_range(-1,1)")),
      dict(pp=Preprocess("decode|resize(9)|value_range(-1,1)"), size=9),
  ):
    before = len(source.reads)
    assert check({"a": source}, known=known, **changes) != known
    assert len(source.reads) == before + 3
  more = Counting([RED] * 4)
  check({"a": more}, known=known)
  assert len(more.reads) == 4


def test_embeddings_are_not_tried():
  stored = Embeddings.__new__(Embeddings)
  stored._data = [None] * 2
  assert check({"a": stored}) == {}


def test_processes_share_the_images_and_raise_one_error():
  board, count = {}, 3
  readers = [Counting([RED] * 4 + [b""] * 26) for _ in range(count)]

  def run(index):
    peers = fakes.BoardPeers(board, index, count)
    with pytest.raises(UserError) as raised:
      check({"a": readers[index]}, peers)
    return str(raised.value)

  with futures.ThreadPoolExecutor(count) as pool:
    messages = list(pool.map(run, range(count)))
  assert len(set(messages)) == 1
  assert "26 of config.evals.a" in messages[0] and "and 6 more" in messages[0]
  assert "record 23 " in messages[0] and "record 24 " not in messages[0]
  reads = [sorted(r.reads) for r in readers]
  assert reads == [list(range(i, 30, 3)) for i in range(count)]


def test_images_are_read_by_as_many_threads_as_are_asked_for():
  together = threading.Barrier(3, timeout=30)

  class Waiting(Counting):

    def __getitem__(self, index):
      together.wait()
      return super().__getitem__(index)

  check({"a": Waiting([RED] * 6)}, num_threads=3)
  assert not together.broken
  check({"a": Counting([RED] * 2)}, num_threads=0)


def test_the_progress_of_a_share_is_shown(monkeypatch):
  tracks = []

  def track(parts, what, *, total):
    parts = list(parts)
    tracks.append((what, len(parts), total))
    return parts

  monkeypatch.setattr(probe.opening, "track", track)
  peers = fakes.BoardPeers({"eval_images": {1: {}}}, 0, 2)
  check({"a": Counting([RED] * 5)}, peers)
  assert tracks == [("Trying images of config.evals.a", 3, 3)]
