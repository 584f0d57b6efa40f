"""The table of what config.init put into a model."""

import io
import re

import numpy as np
from rich import console as rich_console
from small_towers import SPEC
from small_towers import augreg
from small_towers import shapes

from siglip_jax import init
from siglip_jax import tree
from siglip_jax.init import fit
from siglip_jax.init import table


def test_the_table_is_short_and_says_what_became_of_all(params, tmp_path):
  path = tmp_path / "[old].npz"
  np.savez(path, **tree.flatten(augreg(params["img"])))
  section = {"img": dict(path=str(path), dont_load=["cls"])}
  fitted, notes = init.read(section, shapes(side=32), SPEC)
  out = rich_console.Console(file=io.StringIO(), width=100)
  init.table.show(
      {"img": "[old].npz"}, ["img", "txt", "t", "b"], fitted, notes, out
  )
  text = out.file.getvalue()
  for pattern in (
      "img .*loaded .* 37 .* from \\[old\\].npz",
      "resampled .* 1 .* pos_embedding, 2x2 to 4x4",
      "skipped by dont_load .* cls",
      "not in the model .* 2 .* head/\\*, pre_logits/\\*",
      "left at random .* 1 .* cls",
      "txt .* at random",
  ):
    assert any(re.search(pattern, line) for line in text.splitlines()), (
        pattern,
        text,
    )
  assert text.count("\n") < 16


def test_numbers_are_counted_and_names_are_grouped_by_their_first_part():
  found = fit.Fitted(
      arrays={"a/x": np.zeros((1000, 2)), "b": np.zeros(5)},
      resampled={},
      skipped=["head/bias", "head/kernel", "cls"],
      unknown=[],
      initial=[],
  )
  out = rich_console.Console(file=io.StringIO(), width=100)
  table.show({"txt": "run"}, ["txt"], {"txt": found}, console=out)
  text = out.file.getvalue()
  assert re.search(r"txt .* loaded .* 2 .* 2,005 .* from run", text)
  assert re.search(r"skipped by dont_load .* 3 .* head/\*, cls ", text)
  assert "not in the model" not in text and "at random" not in text


def test_notes_stay_on_a_line_of_their_own_whatever_they_hold():
  out = rich_console.Console(file=io.StringIO(), width=40)
  note = "txt: [red]run[/red] was trained with " + "a long string, " * 9
  table.show({}, ["txt"], {}, [note], out)
  assert f"Note on {note}\n" in out.file.getvalue()
