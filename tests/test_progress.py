import io

import numpy as np
from rich import console as rich_console

from siglip_jax import progress
from siglip_jax.evals import scores


def make_console(terminal=False, width=200):
  return rich_console.Console(
      file=io.StringIO(), force_terminal=terminal, width=width, highlight=False
  )


def run(console, monkeypatch, show=True, seconds=24.0, step=120):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  bar = progress.Progress(
      total_steps=1000, start_step=100, show=show, console=console
  )
  with bar:
    now[0] = seconds
    bar.update(step, loss=3.214, examples_per_second=409.8)
  return console.file.getvalue()


def test_a_line_an_update_off_the_terminal(monkeypatch):
  # 20 of this process's own steps took 24 s, so 880 more take 17:36.
  for width in (200, 20):
    assert run(make_console(width=width), monkeypatch) == (
        "step 120/1000 loss 3.21 410 examples/s 17:36 left\n"
    )


def test_hours_are_hours(monkeypatch):
  text = run(make_console(), monkeypatch, seconds=240.0)
  assert text.endswith("2:56:00 left\n")


def test_terminal_shows_the_same_in_a_bar(monkeypatch):
  text = run(make_console(terminal=True), monkeypatch)
  assert "\x1b[" in text
  assert "loss 3.21 410 examples/s 17:36 left" in text


def evaluate(console, show=True):
  bar = progress.Progress(total_steps=9, show=show, console=console)
  with bar:
    with bar.evaluating("[colors]"):
      assert list(bar.track("ab", 2)) == ["a", "b"]
      assert list(bar.track("cde", 3)) == ["c", "d", "e"]
      bar._bar.refresh()
    during = console.file.getvalue()
    assert list(bar.track("outside", 7)) == list("outside")
  return during


def test_a_terminal_shows_the_evaluation():
  text = evaluate(make_console(terminal=True))
  assert "evaluating [colors] 5/5" in text and "step 0/9" in text


def test_an_evaluation_off_the_terminal_is_silent():
  assert not evaluate(make_console())
  assert not evaluate(make_console(terminal=True), show=False)


def test_other_processes_are_silent(monkeypatch):
  for terminal in (False, True):
    assert not run(make_console(terminal), monkeypatch, show=False)


def test_final_table_keeps_whole_names_and_brackets():
  console = make_console(width=80)
  hits = np.arange(200) < 30
  progress.final_table(
      [scores.score("retrieval/[bold]things/img2txt@10", hits, 0.05)], console
  )
  text = console.file.getvalue()
  for part in ("[bold]", "15.0%", "10.7% to 20.6%", "5.00%", "3.0", "200"):
    assert part in text
  assert "…" not in text


def test_final_table_is_not_folded_in_a_file():
  name = "retrieval/a-data-set-of-a-rather-long-name/and-more/img2txt@10"
  found = {}
  for terminal in (False, True):
    console = make_console(terminal, width=80)
    progress.final_table([scores.score(name, np.ones(9, bool), 0.1)], console)
    found[terminal] = name in console.file.getvalue()
  assert found == {False: True, True: False}


def test_final_table_of_a_loss_is_in_nats():
  console = make_console()
  progress.final_table([scores.mean("loss/a", np.full(9, 2.5), 5.5)], console)
  (row,) = [x for x in console.file.getvalue().splitlines() if "loss/a" in x]
  cells = [cell.strip() for cell in row.split("│")[1:-1]]
  assert cells == ["loss/a", "2.50", "2.50 to 2.50", "5.500", "-", "9"]


def test_the_pace_of_a_job_counts_from_its_first_update(monkeypatch):
  out, now = io.StringIO(), [0.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  console = rich_console.Console(file=out, width=80)
  with progress.Pace("examples", total=8000, console=console) as pace:
    for done, at, note in (
        (100, 60.0, "first"),  # a minute of compiling
        (300, 61.0, None),
        (600, 62.0, "second"),
        (8000, 90.0, "last"),
    ):
      now[0] = at
      pace.update(done, note)
  assert out.getvalue().splitlines() == [
      "first: 100/8000 examples",
      "second: 600/8000 examples, 250/s, 0:30 left",
      "last: 8000/8000 examples, 263/s, 0:00 left",
  ]
  hidden = io.StringIO()
  console = rich_console.Console(file=hidden)
  with progress.Pace("x", total=1, show=False, console=console) as pace:
    pace.update(1, "note")
  assert not hidden.getvalue()
