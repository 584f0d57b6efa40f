import html.parser
import re

import numpy as np

from siglip_jax import report
from siglip_jax.evals import scores

EVIL = '<script>alert("x")</script>&"\' $$ ${title} _'


def write(tmp_path, name="owl", history=None):
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
      scores=[scores.score(top1, np.arange(20) < 10, 0.05)],
      gallery={name: [card]},
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
  evil, good = Tags(write(tmp_path, EVIL)), Tags(write(tmp_path))
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
