"""The classifying command: a table, JSON, and what it refuses."""

import json
import shutil

import fakes
import numpy as np
import pytest

import siglip_jax
from siglip_jax.data import tokenizer

MODULE = "siglip_jax.classify"


@pytest.fixture(scope="module")
def image(place):
  path = place / "a [bold] image.png"
  path.write_bytes(fakes.png(fakes.COLORS["red"]))
  return path


def test_the_table_has_a_row_an_image_and_a_column_a_label(
    command, trained, place, image
):
  other = place / "images" / "001.png"
  done = command.run(
      MODULE,
      f"--model={trained}",
      image,
      other,
      "--labels=red, [green], blue",
      status=0,
  )
  rows = [[c.strip() for c in x.split("│")] for x in done.out.splitlines()]
  (head,) = [x for x in done.out.splitlines() if "image " in x][:1]
  assert [x.strip() for x in head.strip("┃").split("┃")] == (
      ["image", "red", "[green]", "blue"]
  )
  named = {row[1]: row[2:5] for row in rows if len(row) > 4}
  assert list(named) == [str(image), str(other)]
  for cells in named.values():
    assert all(0 <= float(c.rstrip("%")) <= 100 for c in cells)


def test_json_holds_what_the_model_says(command, trained, image):
  labels = ["red", "grün"]
  done = command.run(
      MODULE,
      f"--model={trained}",
      "--json",
      image,
      f"--labels={','.join(labels)}",
      status=0,
  )
  ((row),) = json.loads(done.out)
  assert row["image"] == str(image)
  assert list(row["probabilities"]) == labels and "grün" in done.out
  expected = siglip_jax.load(trained).classify([image], labels)
  np.testing.assert_allclose(
      list(row["probabilities"].values()), expected[0], rtol=1e-5
  )


@pytest.mark.parametrize(
    "arguments, match",
    [
        ("--model=MODEL --labels=a,b", "Give a model, images and labels"),
        ("--model=MODEL IMAGE", "Give a model, images and labels"),
        ("IMAGE --labels=a", "Give a model: --model=DIR"),
        ("--model=MODEL IMAGE --labels=a,,b", "Labels must differ"),
        ("--model=MODEL IMAGE --labels=a,a", "Labels must differ"),
        ("--model=MODEL IMAGE --label=a", "'label'. Did you mean: labels"),
        ("--model=MODEL gone.png --labels=a", "There is no image gone.png"),
        ("--model=MODEL MODEL --labels=a", "trained is a folder, and an image"),
        ("--model=MODEL IMAGE --labels=a --step=7", "no checkpoint of step 7"),
        ("--model=MODEL IMAGE --labels=a --step=x", "--step=x"),
        ("--model=MODEL BAD --labels=a", "bad.png cannot be read as an image"),
        ("--model=GONE IMAGE --labels=a", "gone: expected a workdir, a"),
        ("--model=IMAGE IMAGE --labels=a", "red.png is not an .npz"),
        ("--model=CUT IMAGE --labels=a", "config.json is damaged"),
        ("--model=OTHER IMAGE --labels=a", "There is no model.safetensors"),
        ("--model=EMPTY IMAGE --labels=a", "There is no checkpoint in"),
        ("--model=SWAPPED IMAGE --labels=a", "not the tokenizer the weights"),
    ],
)
def test_mistakes_are_one_line(command, trained, place, arguments, match):
  for name in ("cut", "other", "empty"):
    (place / name).mkdir(exist_ok=True)
  config = (trained / "config.json").read_bytes()
  (place / "cut" / "config.json").write_bytes(config[:100])
  (place / "other" / "config.json").write_text('{"model_type": "siglip"}')
  (place / "empty" / "config.json").write_bytes(config)
  (place / "bad.png").write_bytes(b"GIF89a")
  (place / "red.png").write_bytes(fakes.png((255, 0, 0)))
  swapped = shutil.copytree(trained, place / "swapped", dirs_exist_ok=True)
  tokenizer.train(["other words"], swapped / "tokenizer.model", vocab_size=300)
  paths = {
      "MODEL": trained,
      "IMAGE": place / "red.png",
      "BAD": place / "bad.png",
      "GONE": place / "gone",
      "CUT": place / "cut",
      "OTHER": place / "other",
      "EMPTY": place / "empty",
      "SWAPPED": swapped,
  }
  for name, path in paths.items():
    arguments = arguments.replace(name, str(path))
  assert match in command.refuse(MODULE, *arguments.split())
