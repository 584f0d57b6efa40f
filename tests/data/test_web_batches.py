"""Batches of a mixture from the web are the same however they are read."""

import numpy as np
import pytest
import servers
import web_files

from siglip_jax.data import kinds
from siglip_jax.data import pipeline
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.tars import build

PP = 'decode|resize(4)|keep("image", "text")'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with four tars and their index, a parquet file and a table."""
  folder = tmp_path_factory.mktemp("web")
  (folder / "tars").mkdir()
  for i in range(4):
    web_files.tar(folder / "tars" / f"{i}.tar", 30, start=30 * i)
  options = build.Options(columns=("width",))
  build.build(str(folder / "tars/*.tar"), str(folder / "index"), options)
  web_files.parquet(folder / "rows.parquet", 50)
  web_files.table(folder, 9)
  return folder


@pytest.fixture(scope="module")
def url(place):
  """The folder, on a server that fails now and then."""
  with servers.RangeServer(
      place, faults=0.05, kinds=("503", "cut", "short")
  ) as server:
    yield server.url


def _source(place, url):
  return kinds.make(
      split="all",
      mix=[
          dict(
              weight=0.6,
              tars=f"{url}/tars/{{0..3}}.tar",
              index=str(place / "index"),
              texts={"txt": 1, "json:re": 2},
              where="width > 4",
          ),
          dict(weight=0.3, parquet=str(place / "rows.parquet")),
          dict(weight=0.1, table=str(place / "pairs.csv")),
      ],
      cache_dir=str(place / "cache"),
  )


def _batches(place, url, count=1, workers=0, start=0):
  """Image and text of all rows of each step, of all processes."""
  parts = []
  for index in range(count):
    batches = pipeline.train_iterator(
        _source(place, url),
        Preprocess(PP),
        batch_size=16,
        seed=3,
        total_steps=12,
        start_step=start,
        order=dict(lanes=4, window=2),
        process_index=index,
        process_count=count,
        num_workers=workers,
    )
    parts.append([(b["image"].copy(), b["text"].tolist()) for b in batches])
  steps = []
  for step in zip(*parts, strict=True):
    images, texts = zip(*step, strict=True)
    steps.append((np.concatenate(images).tobytes(), sum(texts, [])))
  return steps


def test_batches_are_the_same_for_any_processes_and_workers(place, url):
  expected = _batches(place, url)
  texts = [text for _, step in expected for text in step]
  shares = [sum(w in t for t in texts) / len(texts) for w in ("row", "line")]
  assert shares == pytest.approx([0.3, 0.1], abs=0.01)
  assert {t.split()[0] for t in texts} == {"text", "re", "more", "row", "line"}
  for count, workers in ((2, 0), (4, 0), (1, 2)):
    assert _batches(place, url, count, workers) == expected
  assert _batches(place, url, start=7) == expected[7:]
  assert not list((place / "cache").iterdir())
