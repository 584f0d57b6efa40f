"""The report of a run: curves, scores and a contact sheet in one HTML file."""

import base64
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import html
import io
from pathlib import Path
import re
import string
from typing import Any

from jaxtyping import UInt8
import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib import ticker as mpl_ticker
import numpy as np
from PIL import Image

from siglip_jax.data.preprocess import Preprocess
from siglip_jax.evals.scores import Evaluator
from siglip_jax.evals.scores import Result
from siglip_jax.evals.scores import Score

# Placeholder colors, replaced in the SVG by CSS variables that follow the
# theme, light or dark.
_COLORS = {"#010101": "var(--soft)"} | {
    f"#0{i + 2}0{i + 2}0{i + 2}": f"var(--c{i})" for i in range(6)
}
_INK, *_LINES = _COLORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """An image, its true name, and the model's guesses, best first."""

  image: UInt8[np.ndarray, "H W 3"]
  truth: str
  guesses: Sequence[tuple[str, float]]

  @property
  def right(self) -> bool:
    """Whether the best guess is the true name."""
    return self.guesses[0][0] == self.truth


def write_report(
    workdir: str | Path,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    scores: Sequence[Score],
    gallery: Mapping[str, Sequence[Card]],
) -> Path:
  """Writes the report into a workdir.

  Args:
    workdir: folder to write into.
    title: heading of the page.
    history: parsed lines of metrics.jsonl.
    scores: final scores; top-1 and recall at 1 become key figures and curves.
    gallery: heading -> cards.

  Returns:
    The path of report.html, a page that loads no other file.
  """
  template = (Path(__file__).parent / "report.html").read_text("utf-8")
  first = [s for s in scores if s.headline]
  steps = max((line["step"] for line in history), default=0)
  page = string.Template(template).substitute(
      title=html.escape(title),
      steps=f"{steps:,}",
      figures="".join(map(_figure, first)),
      charts=_loss_chart(history) + _score_chart(history, first),
      rows="".join(map(_row, scores)),
      galleries="".join(map(_gallery, gallery.items())),
  )
  path = Path(workdir) / "report.html"
  path.write_text(page, "utf-8")
  return path


def cards(evaluator: Evaluator, result: Result, image: str) -> list[Card]:
  """Returns the cards of an evaluation's examples.

  Args:
    evaluator: the evaluator, whose source has the images.
    result: the evaluator's result.
    image: preprocessing string of images; the cards show what the model saw.
  """
  pp, source = Preprocess(image), evaluator.source
  return [
      Card(
          image=pp(source[example.index], np.random.default_rng(0))["image"],
          truth=example.truth,
          guesses=example.guesses,
      )
      for example in result.gallery
  ]


def _figure(s: Score) -> str:
  kind, _, name = s.name.partition("/")
  return (
      f'<div class="figure"><span class="kind">{html.escape(kind)}</span>'
      f"<b>{s.value:.1%}</b><span>{html.escape(name)}</span>"
      f"<small>{s.times_chance} &times; chance</small></div>"
  )


def _row(s: Score) -> str:
  bar = (
      f'<span class="bar" title="95 % interval {s.lo:.1%} to {s.hi:.1%}">'
      f'<i style="width:{s.value:.2%}"></i>'
      f'<u style="left:{s.lo:.2%};width:{s.hi - s.lo:.2%}"></u>'
      f'<s style="left:{s.chance:.2%}"></s></span>'
  )
  cells = (
      bar,
      f"<b>{s.value:.1%}</b>",
      f"{s.lo:.1%} to {s.hi:.1%}",
      f"{s.chance:.2%}",
      s.times_chance,
      f"{s.n:,}",
  )
  tail = "".join(f"<td>{c}</td>" for c in cells)
  return f"<tr><th scope=row>{html.escape(s.name)}</th>{tail}</tr>"


def _gallery(item: tuple[str, Sequence[Card]]) -> str:
  name, cards = item
  right = sum(c.right for c in cards)
  return (
      f"<section><h2>{html.escape(name)}</h2><p>{right} of the {len(cards)}"
      " images shown are right. Bars are the model's probability that name"
      " and image belong together; they need not add up to 100 %.</p>"
      f'<div class="cards">{"".join(map(_card, cards))}</div></section>'
  )


def _card(card: Card) -> str:
  png = io.BytesIO()
  Image.fromarray(card.image).save(png, format="png")
  source = base64.b64encode(png.getvalue()).decode()
  guesses = "".join(
      f'<li{" class=hit" if name == card.truth else ""}>'
      f"<span>{html.escape(name)}</span><span>{p:.0%}</span>"
      f'<i style="width:{p:.1%}"></i></li>'
      for name, p in card.guesses
  )
  state, mark = ("right", "&#10003;") if card.right else ("wrong", "&#10007;")
  truth = html.escape(card.truth)
  return (
      f'<article class="{state}">'
      f'<img alt="{truth}" src="data:image/png;base64,{source}">'
      f"<div><h3>{truth}</h3><p class=mark>{mark} {state}</p>"
      f"<ol>{guesses}</ol></div></article>"
  )


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> str:
  points = _series(history, "train/loss")
  log = all(y > 0 for _, y in points)
  return _chart("Training loss", [("train/loss", points, None)], log=log)


def _score_chart(history, scores: Sequence[Score]) -> str:
  lines = [(s.name, _series(history, s.name), s.chance) for s in scores]
  shown = min(len(lines), len(_LINES))
  title = f"{shown} of {len(lines)} key figures (dotted: chance)"
  return _chart(title, lines[:shown])


def _chart(title: str, lines, *, log: bool = False) -> str:
  """Returns an SVG chart with an HTML legend, where names are only text."""
  lines = [line for line in lines if line[1]]
  if not lines:
    return ""
  style: dict[Any, Any] = {
      "svg.hashsalt": title,
      "svg.fonttype": "none",
      "font.size": 9,
      "text.color": _INK,
      "axes.edgecolor": _INK,
      "axes.labelcolor": _INK,
      "xtick.color": _INK,
      "ytick.color": _INK,
  }
  with matplotlib.rc_context(style):
    fig = mpl_figure.Figure(figsize=(5, 2.8), layout="constrained")
    axes = fig.add_subplot()
    for color, (_, points, chance) in zip(_LINES, lines, strict=False):
      marker = "o" if len(points) < 30 else None
      axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=3)
      if chance is not None:
        axes.axhline(chance, color=color, ls=":", lw=1)
    axes.set(xlabel="step", yscale="log" if log else "linear")
    if log:  # plain numbers: the loss seldom spans more than two decades
      axes.yaxis.set(
          major_formatter="{x:g}",
          minor_locator=mpl_ticker.LogLocator(subs=(2, 5)),
          minor_formatter="{x:g}",
      )
    axes.spines[["top", "right"]].set_visible(False)
    svg = io.StringIO()
    fig.savefig(
        svg,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
  drawing = svg.getvalue()
  drawing = re.sub(r'<g id="[^"]*"', "<g", drawing[drawing.index("<svg") :])
  drawing = re.sub("|".join(_COLORS), lambda m: _COLORS[m[0]], drawing)
  legend = "".join(
      f'<li><i style="background:{_COLORS[c]}"></i>{html.escape(name)}</li>'
      for c, (name, _, _) in zip(_LINES, lines, strict=False)
  )
  return (
      f"<figure><figcaption>{title}</figcaption>{drawing}"
      f"<ul class=legend>{legend}</ul></figure>"
  )


def _series(history, name: str) -> list[tuple[int, float]]:
  return [(x["step"], x[name]) for x in history if x.get(name) is not None]
