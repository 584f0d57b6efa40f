"""LiT on emoji beside both towers from scratch, in the same time.

  python benchmarks/emoji_lit.py        (make lit, after make train)

Embeds the emoji with the image tower of runs/emoji, which learned from English,
trains a Japanese text tower on them (configs/emoji_lit.py), and then, for as
many seconds as all that took, both towers from scratch on the same Japanese
(configs/emoji.py). Prints what each reached, with intervals, as a ratio; and
seconds and examples. Started again, it goes on where it was.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from pathlib import Path
import subprocess
import sys
import time

from absl import app
from absl import flags
from rich import box as rich_box
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import metrics

_TOWER = flags.DEFINE_string("tower", "runs/emoji", "The English run.")
_OUT = flags.DEFINE_string("out", "runs/lit", "Folder for all that is made.")
_LANG = flags.DEFINE_string("lang", "ja", "What the text tower learns.")
_STEPS = flags.DEFINE_integer("steps", 2_000, "Of LiT.")
_BATCH = 32  # of configs/emoji.py
_SPLITS = ("train", "other_drawing", "unseen_combination", "unseen_thing")
_SHOWN = (
    "zeroshot/other_drawing/top1",
    "zeroshot/other_drawing/top5",
    "retrieval/unseen_combination/img2txt@1",
    "retrieval/unseen_combination/txt2img@1",
    "retrieval/unseen_thing/img2txt@1",
    "retrieval/unseen_thing/img2txt@5",
)


def run(module: str, *arguments: str) -> None:
  """Runs a command of the project; its failure ends this one."""
  done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
  if done.returncode:
    sys.exit(done.returncode)


def embed(folder: Path) -> float:
  """Embeds every split; returns the seconds it took, now or then."""
  note = folder / "seconds.json"
  if note.exists():
    return json.loads(note.read_text())
  begin = time.monotonic()
  for split in _SPLITS:
    run(
        "siglip_jax.embed",
        f"--config=configs/emoji_lit.py:tower={_TOWER.value}",
        f"--split={split}",
        f"--out={folder / split}",
    )
  seconds = time.monotonic() - begin
  note.write_text(json.dumps(seconds))
  return seconds


def both_towers(workdir: Path, steps: int) -> None:
  """Trains both towers on the same texts."""
  run(
      "siglip_jax.main",
      f"--config=configs/emoji.py:langs={_LANG.value},steps={steps}",
      f"--workdir={workdir}",
  )


def from_scratch(workdir: Path, seconds: float) -> None:
  """Trains both towers for as many steps as fit into the time."""
  config = workdir / "config.json"
  if config.exists():
    steps = json.loads(config.read_text())["total_steps"]
  else:
    probe = workdir.with_name(f"{workdir.name}_probe")
    both_towers(probe, 600)
    # The first reading has the compilation in it.
    rate = list(rates(probe).values())[-1]
    # Whole log intervals, so that the last step's time is on record.
    steps = max(round(seconds * rate / _BATCH / 200), 1) * 200
  both_towers(workdir, steps)


def rates(workdir: Path) -> dict[int, float]:
  """Examples per second up to each step that was logged."""
  key = "train/examples_per_second"
  lines = metrics.read(workdir)
  return {line["step"]: line[key] for line in lines if key in line}


def cost(workdir: Path) -> tuple[int, float]:
  """Examples that a run has seen, and the seconds of its steps."""
  config = json.loads((workdir / "config.json").read_text())
  seconds, before = 0.0, 0
  for step, rate in rates(workdir).items():
    seconds += (step - before) * config["batch_size"] / rate
    before = step
  return before * config["batch_size"], seconds


def compare(
    runs: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, tuple[int, float]],
) -> rich_table.Table:
  """Quality and cost of two runs, and the first as a multiple of the second."""
  a, b = runs
  table = rich_table.Table(
      title="LiT beside from scratch, in percent (95 % interval)",
      title_justify="left",
      box=rich_box.SIMPLE,
  )
  table.add_column("", no_wrap=True)
  for name in (a, b, "ratio"):
    table.add_column(name, justify="right", no_wrap=True)
  for name in _SHOWN:
    cells = [_with_interval(runs[r], name) for r in (a, b)]
    short = name.partition("/")[2]
    table.add_row(short, *cells, _ratio(runs[a][name], runs[b][name]))
  for i, what in enumerate(("examples", "seconds")):
    x, y = costs[a][i], costs[b][i]
    table.add_row(what, f"{x:,.0f}", f"{y:,.0f}", _ratio(x, y))
  return table


def _with_interval(scores: Mapping[str, float], name: str) -> str:
  value, low, high = (100 * scores[name + x] for x in ("", "/low", "/high"))
  return f"{value:.1f} ({low:.1f}-{high:.1f})"


def _ratio(x: float, y: float) -> str:
  return f"{x / y:.2f}" if y else "-"


def _scores(workdir: Path) -> dict[str, float]:
  """The last value of each metric."""
  return {k: v for line in metrics.read(workdir) for k, v in line.items()}


def main(argv: Sequence[str]) -> None:
  """Runs what is missing and prints the table."""
  del argv
  out, tower = Path(_OUT.value), Path(_TOWER.value)
  if not (tower / "metrics.jsonl").exists():
    sys.exit(f"error: {tower} is no finished run: `make train` first.")
  embeddings = out / "embeddings"
  embed_seconds = embed(embeddings)
  lit = out / f"{_LANG.value}_lit"
  run(
      "siglip_jax.main",
      f"--config=configs/emoji_lit.py:embeddings={embeddings}"
      f",lang={_LANG.value},steps={_STEPS.value}",
      f"--workdir={lit}",
  )
  examples, seconds = cost(lit)
  seconds += embed_seconds
  scratch = out / f"{_LANG.value}_scratch"
  from_scratch(scratch, seconds)
  runs = {"LiT": _scores(lit), "from scratch": _scores(scratch)}
  costs = {"LiT": (examples, seconds), "from scratch": cost(scratch)}
  console = rich_console.Console(highlight=False)
  console.print(compare(runs, costs))
  tower_examples, tower_seconds = cost(tower)
  console.print(
      f"LiT's time includes {embed_seconds:.0f} s of embedding. The tower it"
      f" locks took {tower_seconds:,.0f} s and {tower_examples:,} examples to"
      " train, once, whatever is tuned to it."
  )


if __name__ == "__main__":
  app.run(main)
