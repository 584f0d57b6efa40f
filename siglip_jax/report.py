"""report.html: curves, scores and a contact sheet, in one file."""

import base64
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import html
import io
from pathlib import Path
import string
from typing import Any

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from siglip_jax.evals.scores import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """A picture, what it shows, and the names found for it."""

  picture: UInt8[np.ndarray, "H W 3"]
  truth: str
  guesses: Sequence[tuple[str, float]]


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
    workdir: where to.
    title: the heading.
    history: lines of metrics.jsonl.
    scores: final scores; the first of each kind become key figures.
    gallery: heading -> cards.

  Returns:
    The path of report.html; it loads nothing from anywhere.
  """
  template = (Path(__file__).parent / "report.html").read_text("utf-8")
  steps = max((line["step"] for line in history), default=0)
  page = string.Template(template).substitute(
      title=html.escape(title),
      subtitle=f"{steps} steps",
      figures="".join(_figure(s) for s in scores if s.name.endswith("1")),
      curves=_curves(history, {s.name: s.chance for s in scores}),
      rows="".join(_row(s) for s in scores),
      galleries="".join(
          f"<h2>{html.escape(name)}: pictures never trained on</h2>"
          f'<div class="cards">{"".join(map(_card, cards))}</div>'
          for name, cards in gallery.items()
      ),
  )
  path = Path(workdir) / "report.html"
  path.write_text(page, "utf-8")
  return path


def _figure(s: Score) -> str:
  return (
      f'<div class="figure"><b>{s.value:.1%}</b>{html.escape(s.name)}<br>'
      f'<span class="soft">{s.value / s.chance:.0f} &times; chance</span></div>'
  )


def _row(s: Score) -> str:
  cells = (
      f"{s.value:.1%}", f"{s.lo:.1%} to {s.hi:.1%}", f"{s.chance:.2%}",
      f"{s.value / s.chance:.0f}", str(s.n),
  )
  tail = "".join(f"<td>{c}" for c in cells)
  return f"<tr><td>{html.escape(s.name)}{tail}</tr>"


def _card(card: Card) -> str:
  right = card.guesses[0][0] == card.truth
  png = io.BytesIO()
  Image.fromarray(card.picture).save(png, format="png")
  source = base64.b64encode(png.getvalue()).decode()
  guesses = "".join(
      f'<p class="guess"><i style="width:{p:.0%}"></i>'
      f"<span>{_strong(name, name == card.truth)}</span>"
      f"<span>{p:.1%}</span></p>"
      for name, p in card.guesses
  )
  mark = "&#10003; right" if right else "&#10007; wrong"
  return (
      f'<div class="card {"right" if right else "wrong"}">'
      f'<img alt="" src="data:image/png;base64,{source}"><div>'
      f'<p class="truth">{html.escape(card.truth)} <span>{mark}</span></p>'
      f"{guesses}</div></div>"
  )


def _strong(text: str, strong: bool) -> str:
  text = html.escape(text)
  return f"<em>{text}</em>" if strong else text


def _curves(
    history: Sequence[Mapping[str, Any]], chances: Mapping[str, float]
) -> str:
  """The loss, and each kind of score with its chance, as inline SVG."""
  import matplotlib  # pylint: disable=g-import-not-at-top

  matplotlib.use("svg")
  from matplotlib import pyplot as plt  # pylint: disable=g-import-not-at-top

  with plt.rc_context({"svg.hashsalt": "report", "font.size": 9}):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    left.plot(*_series(history, "train/loss"), color="#3366cc")
    left.set(title="train/loss", xlabel="step", yscale="log")
    for i, name in enumerate(n for n in chances if n.endswith("1")):
      label = "/".join(name.split("/")[-2:])
      x, y = _series(history, name)
      right.plot(x, y, color=f"C{i}", marker="o", ms=3, label=label)
      right.axhline(chances[name], color=f"C{i}", ls=":", lw=1)
    right.set(title="held-out pictures (dotted: chance)", xlabel="step")
    right.legend(frameon=False, fontsize=7)
    for axes in (left, right):
      axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
  text = svg.getvalue()
  return text[text.index("<svg") :]


def _series(history: Iterable[Mapping[str, Any]], name: str):
  points = [
      (line["step"], line[name])
      for line in history
      if line.get(name) is not None
  ]
  return [p[0] for p in points], [p[1] for p in points]
