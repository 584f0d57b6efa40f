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

from siglip_jax import files
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
    starts: Sequence[Mapping[str, Any]] = (),
    name: str = "report.html",
) -> Path:
  """Writes the report into a workdir, in one move.

  Args:
    workdir: folder to write into.
    title: heading of the page.
    history: parsed lines of metrics.jsonl.
    scores: final scores; top-1 and recall at 1 become key figures and curves.
    gallery: heading -> cards.
    starts: the starts of the run, in order: step, time, code, versions (of
      packages), devices, and changed (lines that say which config fields are
      new). Keys may be missing. Shown if there are several or any changes.
    name: name of the file.

  Returns:
    The path of the report, a page that loads no other file.
  """
  template = (Path(__file__).parent / "report.html").read_text("utf-8")
  first = [s for s in scores if s.headline]
  steps = max((line["step"] for line in history), default=0)
  page = string.Template(template).substitute(
      title=html.escape(title),
      steps=f"{steps:,}",
      figures="".join(map(_figure, first)),
      charts=_charts(history, first, starts),
      rows="".join(map(_row, scores)),
      starts=_starts(starts),
      galleries="".join(map(_gallery, gallery.items())),
  )
  path = Path(workdir) / name
  with files.replacing(path) as partial:
    partial.write_text(page, "utf-8")
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
  small = f"{s.times_chance} &times; chance"
  if s.unit == "nats":
    small = f"chance {s.chance_text}"
  return (
      f'<div class="figure"><span class="kind">{html.escape(kind)}</span>'
      f"<b>{s.value_text}</b><span>{html.escape(name)}</span>"
      f"<small>{small}</small></div>"
  )


def _row(s: Score) -> str:
  cells = (
      _bar(s) if s.unit == "share" else "nats",
      f"<b>{s.value_text}</b>",
      s.interval_text,
      s.chance_text,
      s.times_chance,
      f"{s.n:,}",
  )
  tail = "".join(f"<td>{c}</td>" for c in cells)
  return f"<tr><th scope=row>{html.escape(s.name)}</th>{tail}</tr>"


def _bar(s: Score) -> str:
  return (
      f'<span class="bar" title="95 % interval {s.interval_text}">'
      f'<i style="width:{s.value:.2%}"></i>'
      f'<u style="left:{s.lo:.2%};width:{s.hi - s.lo:.2%}"></u>'
      f'<s style="left:{s.chance:.2%}"></s></span>'
  )


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
  """Returns a table of the starts; "" if one start changed nothing."""
  if len(starts) < 2 and not any(s.get("changed") for s in starts):
    return ""
  return (
      "<section><h2>Starts</h2><p>Each process that trained this run, with the"
      " config fields that it changed.</p>"
      '<div class="scroll"><table class="starts"><thead><tr><th>step<th>time'
      "<th>code<th>versions<th>devices<th>changed</thead>"
      f"<tbody>{''.join(map(_start, starts))}</tbody></table></div></section>"
  )


def _start(start: Mapping[str, Any]) -> str:
  versions = start.get("versions") or {}
  cells = (
      [start.get("time", "")],
      [start.get("code", "")],
      [f"{name} {version}" for name, version in versions.items()],
      [start.get("devices", "")],
      start.get("changed", ()),
  )
  tail = "".join(
      f"<td>{'<br>'.join(html.escape(str(line)) for line in cell)}</td>"
      for cell in cells
  )
  step = start.get("step", "")
  return f"<tr><th scope=row>{html.escape(str(step))}</th>{tail}</tr>"


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


def _charts(history, scores: Sequence[Score], starts) -> str:
  """Returns a chart of the losses, and one of the shares."""
  marks = [s["step"] for s in starts if s.get("changed") and "step" in s]
  lines = {
      unit: [
          (s.name, _series(history, s.name), s.chance)
          for s in scores
          if s.unit == unit
      ]
      for unit in ("nats", "share")
  }
  losses = [("train/loss", _series(history, "train/loss"), None)]
  losses = (losses + lines["nats"])[: len(_LINES)]
  shares = lines["share"][: len(_LINES)]
  log = all(y > 0 for _, points, _ in losses for _, y in points)
  title = "Training loss"
  if len(losses) > 1:
    title = "Losses (dotted: chance)"
  count = f"{len(shares)} of {len(lines['share'])} key figures"
  return _chart(title, losses, log=log, marks=marks) + _chart(
      f"{count} (dotted: chance)", shares, marks=marks
  )


def _chart(
    title: str, lines, *, log: bool = False, marks: Sequence[int] = ()
) -> str:
  """Returns an SVG chart with an HTML legend, where names are only text.

  Args:
    title: caption.
    lines: (name, points, chance) of each line; chance may be None.
    log: whether the vertical axis is logarithmic.
    marks: steps at which a changed config took over, drawn as thin lines.
  """
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
    for step in marks:
      axes.axvline(step, color=_INK, lw=0.6)
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
