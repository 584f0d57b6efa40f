"""Locked-image tuning (LiT) on emoji, beside training both towers from scratch.

  python examples/lit_emoji.py --tower=runs/emoji        (make lit)

needs the run of `make train`. Embeds the emoji with that run's image tower,
which learned from English names; trains a Japanese text tower on the embeddings
(configs/emoji_lit.py); then, for as many seconds as both took, trains both
towers from scratch on the same Japanese names (configs/emoji.py). Prints what
each reached, what it cost, and the ratio:

                                              LiT       from scratch   ratio
  other_drawing/top1                2.0 (0.9-4.6)      0.4 (0.1-2.2)    5.00
  other_drawing/top5               8.0 (5.2-12.0)      2.0 (0.9-4.6)    4.00
  unseen_combination/img2txt@1   83.1 (78.9-86.5)   31.5 (26.9-36.3)    2.64
  unseen_combination/txt2img@1   81.3 (75.6-85.9)   36.5 (30.4-43.1)    2.23
  unseen_thing/img2txt@1           5.4 (2.9-10.0)      4.8 (2.5-9.2)    1.12
  unseen_thing/img2txt@5         24.7 (18.8-31.8)   19.3 (14.0-25.9)    1.28
  examples                                512,000             44,800   11.43
  seconds                                      44                 54    0.81

Started again, it continues where it stopped.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from pathlib import Path
import subprocess
import sys
import time

from absl import flags
from rich import box as rich_box
from rich import console as rich_console
from rich import table as rich_table

from siglip_jax import cli
from siglip_jax import metrics
from siglip_jax.errors import UserError

SPLITS = ("train", "other_drawing", "unseen_combination", "unseen_thing")
SHOWN = (
    "zeroshot/other_drawing/top1",
    "zeroshot/other_drawing/top5",
    "retrieval/unseen_combination/img2txt@1",
    "retrieval/unseen_combination/txt2img@1",
    "retrieval/unseen_thing/img2txt@1",
    "retrieval/unseen_thing/img2txt@5",
)


def define_flags() -> None:
  """Defines the flags of the program."""
  flags.DEFINE_string("tower", "runs/emoji", "Run whose image tower to lock.")
  flags.DEFINE_string("out", "runs/lit", "Folder of the runs to write.")
  flags.DEFINE_string("lang", "ja", "Language of the text tower.")
  flags.DEFINE_integer("steps", 2_000, "Steps of LiT.")
  flags.DEFINE_integer(
      "probe_steps", 600, "Steps that measure the speed from scratch."
  )


def main(argv: Sequence[str]) -> None:
  """Runs what is missing and prints the table."""
  del argv
  values = flags.FLAGS
  compare(
      Path(values.tower),
      Path(values.out),
      values.lang,
      steps=values.steps,
      probe_steps=values.probe_steps,
  )


def compare(
    tower: Path, out: Path, lang: str, *, steps: int, probe_steps: int
) -> None:
  """Trains both ways in the same time and prints what each reached."""
  if not (tower / "metrics.jsonl").exists():
    raise UserError(f"{tower} is not a finished run: `make train` first.")
  embed_seconds = embed(tower, out / "embeddings")
  lit, scratch = out / f"{lang}_lit", out / f"{lang}_scratch"
  run(
      "siglip_jax.main",
      f"--config=configs/emoji_lit.py:embeddings={out / 'embeddings'}"
      f",lang={lang},steps={steps}",
      f"--config.log_steps={max(steps // 20, 1)}",
      f"--workdir={lit}",
  )
  examples, seconds = cost(lit)
  seconds += embed_seconds
  from_scratch(scratch, lang, seconds, probe_steps)
  console = rich_console.Console(highlight=False)
  if not console.is_terminal:  # no width to fit into
    console.width = 10_000
  console.print(
      table(
          {"LiT": scores(lit), "from scratch": scores(scratch)},
          {"LiT": (examples, seconds), "from scratch": cost(scratch)},
      )
  )
  tower_examples, tower_seconds = cost(tower)
  console.print(
      f"LiT's time includes {embed_seconds:.0f} s of embedding. The locked"
      f" tower took {tower_seconds:,.0f} s and {tower_examples:,} examples to"
      " train, once for all text towers."
  )


def embed(tower: Path, folder: Path) -> float:
  """Embeds every split, once; returns the seconds that it took."""
  note = folder / "seconds.json"
  if note.exists():
    return json.loads(note.read_text())
  start = time.monotonic()
  for split in SPLITS:
    run(
        "siglip_jax.embed",
        f"--config=configs/emoji_lit.py:tower={tower}",
        f"--split={split}",
        f"--out={folder / split}",
    )
  seconds = time.monotonic() - start
  note.write_text(json.dumps(seconds))
  return seconds


def from_scratch(
    workdir: Path, lang: str, seconds: float, probe_steps: int
) -> None:
  """Trains both towers for as many steps as fit into the time."""
  log_steps = max(probe_steps // 3, 1)

  def train(workdir: Path, steps: int) -> None:
    run(
        "siglip_jax.main",
        f"--config=configs/emoji.py:langs={lang},steps={steps}",
        f"--config.log_steps={log_steps}",
        f"--workdir={workdir}",
    )

  config = workdir / "config.json"
  if config.exists():
    steps = json.loads(config.read_text())["total_steps"]
  else:
    probe = workdir.with_name(f"{workdir.name}_probe")
    train(probe, probe_steps)
    # The last reading: the first includes compilation.
    examples_per_second = list(rates(probe).values())[-1]
    batch_size = json.loads((probe / "config.json").read_text())["batch_size"]
    # Whole log intervals, so that the time of the last step is logged.
    intervals = round(seconds * examples_per_second / batch_size / log_steps)
    steps = max(intervals, 1) * log_steps
  train(workdir, steps)


def run(module: str, *arguments: str) -> None:
  """Runs a command of the package; ends this program if it fails."""
  done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
  if done.returncode:
    sys.exit(done.returncode)


def rates(workdir: Path) -> dict[int, float]:
  """Returns step -> examples per second since the step logged before."""
  key = "train/examples_per_second"
  lines = metrics.read(workdir)
  return {line["step"]: line[key] for line in lines if key in line}


def cost(workdir: Path) -> tuple[int, float]:
  """Returns the examples that a run has seen, and the seconds it trained."""
  batch_size = json.loads((workdir / "config.json").read_text())["batch_size"]
  seconds, before = 0.0, 0
  for step, rate in rates(workdir).items():
    seconds += (step - before) * batch_size / rate
    before = step
  return before * batch_size, seconds


def scores(workdir: Path) -> dict[str, float]:
  """Returns the last value of each metric."""
  return {k: v for line in metrics.read(workdir) for k, v in line.items()}


def table(
    runs: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, tuple[int, float]],
) -> rich_table.Table:
  """Returns scores and costs of two runs, and the first over the second."""
  a, b = runs
  rows = rich_table.Table(
      title="LiT beside from scratch, in percent (95 % interval)",
      title_justify="left",
      box=rich_box.SIMPLE,
  )
  rows.add_column("", no_wrap=True)
  for name in (a, b, "ratio"):
    rows.add_column(name, justify="right", no_wrap=True)
  for name in SHOWN:
    cells = [with_interval(runs[r], name) for r in (a, b)]
    short = name.partition("/")[2]
    rows.add_row(short, *cells, ratio(runs[a][name], runs[b][name]))
  for i, what in enumerate(("examples", "seconds")):
    x, y = costs[a][i], costs[b][i]
    rows.add_row(what, f"{x:,.0f}", f"{y:,.0f}", ratio(x, y))
  return rows


def with_interval(scores: Mapping[str, float], name: str) -> str:
  """Returns a metric in percent with its interval."""
  value, low, high = (100 * scores[name + x] for x in ("", "/low", "/high"))
  return f"{value:.1f} ({low:.1f}-{high:.1f})"


def ratio(x: float, y: float) -> str:
  """Returns x / y as text, or - if y is 0."""
  return f"{x / y:.2f}" if y else "-"


if __name__ == "__main__":
  cli.main(main, define_flags)
