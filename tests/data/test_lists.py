"""The command that lists copies, from data to `without`."""

import json

import fakes
import pyarrow as pa
from pyarrow import parquet as pq
import pytest

from siglip_jax.data import kinds
from siglip_jax.data.tables import filters

MODULE = "siglip_jax.data.lists"
COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Images 0, 1 and 2 again and again, in a table and in a Parquet file."""
  folder = tmp_path_factory.mktemp("lists")
  images = [fakes.png(COLORS[i % 3], 20) for i in range(7)]
  entries = []
  for i, image in enumerate(images):
    (folder / f"{i}.png").write_bytes(image)
    entries.append({"image": f"{i}.png", "text": f"text {i}"})
  (folder / "t.jsonl").write_text("\n".join(map(json.dumps, entries)))
  uids = [f"{i:032x}" for i in range(7)]
  texts = [entry["text"] for entry in entries]
  table = pa.table({"image": images, "text": texts, "uid": uids})
  pq.write_table(table, folder / "t.parquet")
  (folder / "held").mkdir()
  (folder / "held/x.png").write_bytes(images[1])
  (folder / "held/x.txt").write_text("x")
  return folder


def test_copies_are_left_out_of_the_same_data(command, folder, tmp_path):
  out = tmp_path / "copies.txt"
  done = command.run(
      MODULE,
      f"--table={folder / 't.jsonl'}",
      "--split=all",
      "--by=sha256",
      f"--out={out}",
      status=0,
  )
  assert "4 of 7 images are copies of an earlier one" in done.out
  assert str(folder / "3.png") in done.out
  source = kinds.make(
      table=str(folder / "t.jsonl"), split="all", without=str(out)
  )
  assert source.values("text") == ["text 0", "text 1", "text 2"]


def test_held_out_images_are_listed_by_a_column(command, folder, tmp_path):
  out = tmp_path / "held.txt"
  done = command.run(
      MODULE,
      f"--parquet={folder / 't.parquet'}",
      "--split=all",
      f"--against=path={folder / 'held'}",
      "--by=sha256",
      "--uid=uid",
      f"--out={out}",
      status=0,
  )
  assert "2 of 7 images are copies of one of 1 others" in done.out
  keys = filters.load(out)
  assert keys.digest is None and len(keys) == 2
  source = kinds.make(
      parquet=str(folder / "t.parquet"), split="all", only=str(out)
  )
  assert source.values("text") == ["text 1", "text 4"]


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["--out=x.npy", "--path=p"], "must be a .txt file; got x.npy"),
        (["--out={t}/x.txt"], "exactly one of"),
        (["--out={t}/x.txt", "--path={f}", "--split=all"], "no caption"),
        (
            [
                "--out={t}/x.txt",
                "--path={f}/held",
                "--split=all",
                "--against=x",
            ],
            "KIND=PLACE .* got 'x'",
        ),
        (
            [
                "--out={t}/x.txt",
                "--path={f}/held",
                "--split=all",
                "--by=embeddings",
            ],
            "compares folders",
        ),
        (
            ["--out={t}/x.txt", "--path={f}/held", "--split=all", "--uid=key"],
            "have no columns",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    command, folder, tmp_path, arguments, match
):
  words = [word.format(f=folder, t=tmp_path) for word in arguments]
  done = command.run(MODULE, *words, status=2)
  with pytest.raises(AssertionError, match=match):
    raise AssertionError(done.err)
