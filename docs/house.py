"""Draws the house from its imports, and counts it.

  python docs/house.py                      writes docs/architecture.svg
  python docs/house.py --counts [--root=CHECKOUT]

`LAYERS` is the order of imports, which tests/test_layout.py enforces: a module
may import what stands in its own line or in a line above it.
"""

import argparse
import ast
import collections
from collections.abc import Iterator
import html
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[1]
# Title of a layer -> its modules and folders. A part of a folder that lies
# elsewhere than the rest has its own name.
LAYERS = {
    "errors": "errors",
    "base": ("files tree cli multihost plan.chips plan.hlo plan.topology plan"),
    "config": "config config.schema",
    "data": "data",
    "workdir": "workdir",
    "model": "models sharding schedules",
    "loss, weights": "losses optim weights",
    "step": "step",
    "run": "run",
    "state": "checkpoint metrics inference.encoder inference.export",
    "initial values, evaluation": "init evals",
    "report": "progress report sanity inference.model",
    "checks": (
        "config.sources config.sections config.strings config.overrides"
        " config.check"
    ),
    "jobs": (
        "embed inference preflight evals.of_run evals.beside evals.milestones"
        " train plan.estimate plan.host plan.search"
    ),
    "commands": "main classify convert demo plan.__main__ data.speed",
}
# The way of the data through the house: unit, and what happens there.
WAY = (
    ("config.check", "a config is read and checked"),
    ("data", "records become images and tokens"),
    ("models", "two towers make embeddings"),
    ("losses", "every image meets every text"),
    ("step", "gradient and update, jitted once"),
    ("train", "the loop: save, evaluate, step, log"),
    ("evals", "zero-shot and retrieval scores"),
    ("checkpoint", "state and position, saved whole"),
    ("inference", "load: encode, compare, classify"),
)
NOTE = (
    "Grey lines are imports, which point down;",
    "those that others imply are left out.",
    "Hover over a box for all that it imports.",
)


def imports(root: Path = ROOT) -> dict[str, set[str]]:
  """Returns module -> the names it imports, anywhere in its file."""
  found = {}
  for path in sorted((root / "siglip_jax").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(p for p in parts if p != "__init__")
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{name}: a relative import"
        names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found[name] = names
  return found


def unit(name: str) -> str:
  """Returns the entry of LAYERS that a module belongs to.

  Raises:
    KeyError: the module has no place yet.
  """
  units = {u for line in LAYERS.values() for u in line.split()}
  parts = name.removeprefix("siglip_jax.").split(".")
  for end in range(len(parts), 0, -1):
    if ".".join(parts[:end]) in units:
      return ".".join(parts[:end])
  raise KeyError(f"{name} has no place in LAYERS of docs/house.py")


def level(name: str) -> int:
  """Returns the number of a module's layer, 0 at the bottom."""
  place = unit(name)
  lines = [line.split() for line in LAYERS.values()]
  return next(i for i, line in enumerate(lines) if place in line)


def draw() -> str:
  """Returns the drawing as SVG."""
  edges = {
      (unit(name), unit(other))
      for name, imported in imports().items()
      for other in imported
      if name != "siglip_jax" and other.startswith("siglip_jax.")
  }
  boxes = _boxes()
  height = 56 * len(LAYERS) + 40
  lines = [
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1130 {height}"'
      ' font-family="system-ui, sans-serif" font-size="13">',
      "<style>.bg{fill:#fff}.band{fill:#f4f5f7}.title{fill:#667;font-size:11px}"
      ".box{fill:#fff;stroke:#889}.name{fill:#123}.edge{stroke:#567;fill:none;"
      "opacity:.45}.way{stroke:#c40;fill:none;stroke-width:2;opacity:.75}"
      ".dot{fill:#c40}.num{fill:#fff;font-size:10px;font-weight:700}"
      ".step{fill:#123;font-size:12px}</style>",
      '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4"'
      ' markerWidth="6" markerHeight="6" orient="auto">'
      '<path d="M0 0 8 4 0 8z" fill="#c40"/></marker></defs>',
      f'<rect class="bg" width="1130" height="{height}"/>',
  ]
  for i, title in enumerate(reversed(LAYERS)):
    y = 20 + 56 * i
    lines.append(
        f'<rect class="band" x="345" y="{y}" width="770" height="46" rx="6"/>'
        f'<text class="title" x="355" y="{y + 27}">{html.escape(title)}</text>'
    )
  for a, b in sorted(_reduced(edges)):
    lines.append(_curve("edge", boxes[a], boxes[b]))
  for (a, _), (b, _) in zip(WAY, WAY[1:], strict=False):
    tip = ' marker-end="url(#tip)"'
    lines.append(_curve("way", boxes[a], boxes[b], more=tip))
  for name, (x, y, width) in boxes.items():
    used = sorted({b for a, b in edges if a == name and b != name})
    lines.append(
        f'<g><title>{name} imports {", ".join(used) or "nothing"}</title>'
        f'<rect class="box" x="{x}" y="{y}" width="{width}" height="26"'
        f' rx="5"/><text class="name" x="{x + width / 2}" y="{y + 17}"'
        f' text-anchor="middle">{name}</text></g>'
    )
  lines += _legend(boxes)
  return "\n".join([*lines, "</svg>"]) + "\n"


def _reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
  """Returns the edges that no longer path implies."""
  below: dict[str, set[str]] = {}

  def reach(name: str) -> set[str]:
    if name not in below:
      below[name] = set()
      for a, b in edges:
        if a == name and b != name:
          below[name] |= {b} | reach(b)
    return below[name]

  direct: dict[str, set[str]] = {}
  for a, b in edges:
    if a != b:
      direct.setdefault(a, set()).add(b)
  return {
      (a, b)
      for a, others in direct.items()
      for b in others
      if not any(b in reach(c) for c in others - {b})
  }


def _boxes() -> dict[str, tuple[float, float, float]]:
  """Returns unit -> left, top and width of its box."""
  boxes = {}
  for i, line in enumerate(reversed(LAYERS.values())):
    units = line.split()
    widths = [18 + 7.2 * len(u) for u in units]
    gap = min(28.0, (640 - sum(widths)) / max(len(units) - 1, 1))
    x = 455 + (640 - sum(widths) - gap * (len(units) - 1)) / 2
    for name, width in zip(units, widths, strict=True):
      boxes[name] = (round(x, 1), 30 + 56 * i, round(width, 1))
      x += width + gap
  return boxes


def _curve(kind: str, start, end, more: str = "") -> str:
  (x1, y1, w1), (x2, y2, w2) = start, end
  a, b = x1 + w1 / 2, x2 + w2 / 2
  down = y2 > y1
  top, bottom = y1 + (26 if down else 0), y2 + (0 if down else 26)
  middle = (top + bottom) / 2
  return (
      f'<path class="{kind}"{more} d="M{a:.1f} {top} C{a:.1f}'
      f' {middle} {b:.1f} {middle} {b:.1f} {bottom}"/>'
  )


def _legend(boxes) -> Iterator[str]:
  yield '<text class="title" x="20" y="36">The way of the data</text>'
  for i, (name, what) in enumerate(WAY):
    x, y, _ = boxes[name]
    for cx, cy in ((x, y), (28, 62 + 30 * i)):
      yield (
          f'<circle class="dot" cx="{cx}" cy="{cy}" r="8"/><text class="num"'
          f' x="{cx}" y="{cy + 3.5}" text-anchor="middle">{i + 1}</text>'
      )
    yield (
        f'<text class="step" x="44" y="{66 + 30 * i}"><tspan font-weight="700">'
        f"{name}</tspan> {html.escape(what)}</text>"
    )
  y = 62 + 30 * len(WAY)
  for i, line in enumerate(NOTE):
    yield f'<text class="title" x="20" y="{y + 16 * i}">{line}</text>'


def counts(root: Path) -> list[tuple[str, str]]:
  """Returns what and how many, for a checkout of any age."""
  package = root / "siglip_jax"
  paths = sorted(package.rglob("*.py"))
  lines = {p: len(p.read_text().splitlines()) for p in paths}
  longest = max(paths, key=lambda p: lines[p])
  functions, openings = [], collections.Counter()
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        size = (node.end_lineno or 0) - node.lineno + 1
        functions.append((size, f"{path.stem}.{node.name}"))
        if text := ast.get_docstring(node):
          openings[text.split()[0].strip("`.,:")] += 1
  headless = sum(openings[word] for word in HEADLESS)
  total = openings.total()
  common = ", ".join(f"{w} {n}" for w, n in openings.most_common(12))
  frames = _frames(root)
  flat = [p for p in package.glob("*.py") if p.stem != "__init__"]
  folders = [p for p in package.iterdir() if (p / "__init__.py").exists()]
  size, name = max(functions)
  return [
      ("modules at the top level", f"{len(flat)}, and {len(folders)} folders"),
      ("files, lines", f"{len(paths)}, {sum(lines.values())}"),
      (
          "longest file",
          f"{longest.relative_to(package)}, {lines[longest]} lines",
      ),
      ("longest function", f"{name}, {size} lines"),
      ("functions with a docstring", f"{total}"),
      ("that open without a head", f"{headless} ({headless / total:.1%})"),
      ("that open with", common),
      (
          "frames from the command line to the loss",
          f"{len(frames)} in {len({f.split('.')[0] for f in frames})} files:"
          f" {' > '.join(frames)}",
      ),
  ]


# Words that a docstring does not open with: they leave out what it is about.
HEADLESS = ("Of", "What", "Where", "Those", "Whatever", "As", "All", "Each")

# Trains a tiny model by the command until the loss is called.
_TRACE = """
import runpy, sys, tempfile
from pathlib import Path
sys.path[:0] = [str(Path('tests').absolute()), str(Path('.').absolute())]
import fakes, siglip_jax
from siglip_jax.data import folders, tokenizer
place = Path(tempfile.mkdtemp())
folder = fakes.captioned_folder(place / 'images')
source = folders.folder_source(folder)
texts = (source[i]['text'] for i in range(len(source)))
tokenizer.train(texts, place / 'tokenizer.model', vocab_size=400)
text = fakes.tiny_config(folder, place / 'tokenizer.model')
(place / 'tiny.py').write_text(text)
package = str(Path(siglip_jax.__file__).parent)

def look(frame, event, _):
  if event != 'call' or frame.f_code.co_name != 'loss_fn':
    return
  names = []
  while frame is not None:
    path = frame.f_code.co_filename
    if path.startswith(package):
      names.append(f'{Path(path).stem}.{frame.f_code.co_name}')
    frame = frame.f_back
  sys.setprofile(None)
  print('FRAMES', *reversed(names))
  raise SystemExit

sys.argv = [
    'main', f'--config={place}/tiny.py', f'--workdir={place}/run',
]
sys.setprofile(look)
runpy.run_module('siglip_jax.main', run_name='__main__', alter_sys=True)
"""


def _frames(root: Path) -> list[str]:
  """Returns the package's own calls between the command and the loss."""
  done = subprocess.run(
      [sys.executable, "-c", _TRACE],
      cwd=root,
      capture_output=True,
      text=True,
      check=False,
  )
  for line in done.stdout.splitlines():
    if line.startswith("FRAMES "):
      return line.split()[1:]
  raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def main() -> None:
  """Draws, or counts."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--counts", action="store_true")
  parser.add_argument("--root", type=Path, default=ROOT)
  options = parser.parse_args()
  if options.counts:
    for what, how_many in counts(options.root):
      print(f"{what}: {how_many}")
  else:
    (ROOT / "docs" / "architecture.svg").write_text(draw())


if __name__ == "__main__":
  main()
