import html.parser
import re

import numpy as np

from siglip_jax import report
from siglip_jax.evals import scores

EVIL = '<script>alert("x")</script>&"\' $$ ${title} _'


START = dict(
    step=10,
    time="2026-01-02T03:04:05+00:00",
    code="abc1234",
    versions={"jax": "0.10.2"},
    devices="4 x TPU v4",
    changed=[],
)


def write(tmp_path, name="owl", history=None, starts=(), losses=(), **options):
  top1 = f"zeroshot/{name}/top1"
  if history is None:
    history = [{"step": 10 * i, "train/loss": 3.0 / i} for i in range(1, 5)]
    history += [{"step": 40, top1: 0.5}, {"step": 50, "train/loss": None}]
  card = report.Card(
      image=np.full((8, 8, 3), 200, np.uint8),
      truth=name,
      guesses=[("cat", 0.61), (name, 0.3)],
  )
  path = report.write_report(
      tmp_path,
      title=name,
      history=history,
      scores=[scores.score(top1, np.arange(20) < 10, 0.05), *losses],
      gallery={name: [card]},
      starts=starts,
      **options,
  )
  return path.read_text("utf-8")


class Tags(html.parser.HTMLParser):

  def __init__(self, text):
    super().__init__()
    self.tags, self.values = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.values += [v for k, v in attrs if not k.startswith("xmlns")]


def test_names_cannot_become_markup(tmp_path):
  evil, good = (
      Tags(
          write(
              tmp_path,
              word,
              starts=[
                  {k: START[k] for k in ("step", "changed")},
                  dict(
                      step=20,
                      time=word,
                      code=word,
                      versions={word: word},
                      devices=word,
                      changed=[word, word],
                  ),
              ],
          )
      )
      for word in (EVIL, "owl")
  )
  assert evil.tags == good.tags
  assert "script" not in evil.tags


def test_loads_nothing(tmp_path):
  text = write(tmp_path)
  page = Tags(text)
  assert not {"script", "link", "iframe", "object"} & set(page.tags)
  assert not [v for v in page.values if v and "//" in v.split("base64,")[0]]
  assert not re.search(r"url\((?!#)|@import|http-equiv", text)


def test_figures_and_marks_are_text(tmp_path):
  text = write(tmp_path)
  for part in ("50.0%", "29.9% to 70.1%", "5.00%", "10.0", "&#10007; wrong"):
    assert part in text


def test_same_input_same_bytes(tmp_path):
  assert write(tmp_path) == write(tmp_path)


def test_run_without_history(tmp_path):
  assert "<svg" not in write(tmp_path, history=[])


def test_charts_follow_the_colour_scheme(tmp_path):
  svg = "".join(re.findall("<svg.*?</svg>", write(tmp_path), re.S))
  assert "var(--c0)" in svg
  assert not [c for c in report._COLORS if c in svg]


def test_right_card():
  image = np.zeros((2, 2, 3), np.uint8)
  card = report.Card(image=image, truth="owl", guesses=[("owl", 0.9)])
  assert card.right
  assert "&#10003; right" in report._card(card)


def cells(text):
  """The rows of the table of starts, as text."""
  _, _, rest = text.partition('<table class="starts">')
  _, _, rest = rest.partition("<tbody>")
  rows = re.findall("<tr>(.*?)</tr>", rest.partition("</table>")[0])
  return [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]


def test_starts_are_shown_if_there_is_something_to_say(tmp_path):
  changed = START | dict(step=30, changed=["optim.lr = 0.01, was 0.001", "b"])
  assert not cells(write(tmp_path))
  assert not cells(write(tmp_path, starts=[START]))
  assert len(cells(write(tmp_path, starts=[START, START]))) == 2
  (row,) = cells(write(tmp_path, starts=[changed]))
  assert row == [
      "30",
      "2026-01-02T03:04:05+00:00",
      "abc1234",
      "jax 0.10.2",
      "4 x TPU v4",
      "optim.lr = 0.01, was 0.001<br>b",
  ]


def test_a_start_with_changes_is_marked_in_the_charts(tmp_path):
  lines = lambda starts: write(tmp_path, starts=starts).count("<path")
  changed = START | dict(changed=["a = 1, was 2"])
  assert lines([START, changed]) == lines([START, START]) + 2


def test_a_loss_is_drawn_with_the_training_loss(tmp_path):
  loss = scores.mean("loss/val", np.full(9, 2.5), 5.5)
  history = [{"step": 1, "train/loss": 3.0}, {"step": 2, "loss/val": 2.5}]
  text = write(tmp_path, history=history, losses=[loss])
  assert "<b>2.50</b>" in text and "chance 5.500" in text
  assert "250" not in re.sub("<svg.*?</svg>", "", text, flags=re.S)
  (figure,) = re.findall("<figure>.*?</figure>", text, re.S)
  assert "Losses" in figure
  assert "train/loss" in figure and "loss/val" in figure
  # A diverged model's loss is null in the file.
  nan = scores.mean("loss/val", np.full(9, np.nan), 5.5)
  text = write(tmp_path, history=[{"step": 2, "loss/val": None}], losses=[nan])
  assert "<b>nan</b>" in text and "<svg" not in text


def test_a_report_has_another_name_if_asked_and_replaces_the_old(tmp_path):
  path = tmp_path / "report.3.html"
  path.write_text("old")
  other = path.stat().st_ino
  assert write(tmp_path, name="owl") != "old" and path.read_text() == "old"
  report.write_report(
      tmp_path, title="new", history=[], scores=[], gallery={}, name=path.name
  )
  assert "new" in path.read_text() and path.stat().st_ino != other
