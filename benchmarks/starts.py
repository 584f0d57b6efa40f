"""Starts a finished run again and again, each time with another config.

  python benchmarks/starts.py --changes=200
  python benchmarks/starts.py --only=17        repeats one start

Each start is on a fresh copy of a small run, either a finished one or one that
has made half of its steps, and changes one to three fields of its config to
plausible or absurd values. Half of the starts only evaluate, and a few are the
preflight's. A start must resume and tell each changed field, or refuse in one
line and change nothing on disk; an evaluation may add only scores. The script
prints a table and each failure with the flags that repeat it, and ends with
status 1 if there are any.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import json
from pathlib import Path
import random
import shutil
import sys
import tempfile
import textwrap
import time
from typing import Any

from absl import flags
import numpy as np
from PIL import Image
import start_values
from start_values import Flag
import start_verdicts
from start_verdicts import EVAL
from start_verdicts import FAILED
from start_verdicts import PREFLIGHT
from start_verdicts import TRAIN
from start_verdicts import Outcome
from start_verdicts import Verdict

from siglip_jax import cli
from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError

_SECONDS = 120.0  # for a start
_NOW = "now"  # the copy of the run that a start gets
# Runs a module with arguments; returns its status (None if it was stopped after
# so many seconds), its output and its error output.
Launch = Callable[[str, Sequence[str], float], tuple[int | None, str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """One start.

  Attributes:
    number: number of the start, which decides all else.
    run: the run that is copied: finished or half.
    command: command that is started.
    changes: changes of the config.
  """

  number: int
  run: str
  command: str
  changes: Sequence[Flag]

  def __str__(self) -> str:
    changes = " ".join(f"{str(flag)!r:.300}" for flag in self.changes)
    return f"{self.number} ({self.command}, {self.run}): {changes}"


class Place:
  """A folder with a config, its data, and two of its runs.

  Args:
    folder: the folder.
    launch: runs a command.
    config: path of a config of at least 2 steps; None makes a small one.
  """

  def __init__(self, folder: Path, launch: Launch, config: str | None = None):
    self.folder, self._launch = folder, launch
    self._config = config or str(small_config(folder))
    self.configs: dict[str, dict[str, Any]] = {}

  def train(self) -> None:
    """Makes the two runs.

    Raises:
      RuntimeError: a run did not end with status 0.
    """
    self._train("finished")
    total = self.configs["finished"]["total_steps"]
    self._train("half", f"--config.total_steps={total // 2}")

  def draw(self, seed: int, number: int) -> Start:
    """Returns the start of a number."""
    source = random.Random(f"{seed} {number}")
    run = source.choice(("finished", "half"))
    command = source.choices((EVAL, TRAIN, PREFLIGHT), (50, 42, 8))[0]
    config = self.configs[run]
    table = start_values.fields(config, str(self.folder))
    changes = start_values.draw(source, table, config)
    return Start(number=number, run=run, command=command, changes=changes)

  def judge(self, start: Start) -> tuple[Verdict, Outcome]:
    """Makes a start on a copy of its run, and judges it."""
    workdir = self.folder / _NOW
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(self.folder / "runs" / start.run, workdir)
    before = disk(self.folder)
    module = "preflight" if start.command == PREFLIGHT else "main"
    arguments = [f"--config={self._config}", f"--workdir={workdir}"]
    arguments += ["--eval_only"] * (start.command == EVAL)
    arguments += map(str, start.changes)
    status, out, err = self._launch(f"siglip_jax.{module}", arguments, _SECONDS)
    outcome = Outcome(
        status=status,
        out=out,
        err=err,
        before=before,
        after=disk(self.folder),
    )
    changes = [*self._implied(start.run), *start.changes]
    verdict = start_verdicts.judge(start.command, changes, outcome, f"{_NOW}/")
    return verdict, outcome

  def _implied(self, run: str) -> list[Flag]:
    """Returns the fields of the config that are not those of the run."""
    total = self.configs["finished"]["total_steps"]
    if self.configs[run]["total_steps"] == total:
      return []
    return [Flag(kind="numbers", field="total_steps", text=str(total))]

  def _train(self, name: str, *arguments: str) -> None:
    workdir = self.folder / "runs" / name
    status, _, err = self._launch(
        "siglip_jax.main",
        [f"--config={self._config}", f"--workdir={workdir}", *arguments],
        5 * _SECONDS,
    )
    if status != 0:
      raise RuntimeError(f"the {name} run ended with {status}: {err}")
    self.configs[name] = json.loads((workdir / "config.json").read_bytes())


def small_config(folder: Path) -> Path:
  """Writes images of four colors with captions, and a config for them."""
  colors = {"red": 0, "green": 1, "blue": 2, "gray": slice(None)}
  images = folder / "images"
  images.mkdir()
  captions = []
  for number in range(60):
    name, channel = list(colors.items())[number % len(colors)]
    pixels = np.full((16, 16, 3), number, np.uint8)
    pixels[..., channel] = 180 + number
    Image.fromarray(pixels).save(images / f"{number}.png")
    captions.append(f"{name} {number // len(colors)}")
    (images / f"{number}.txt").write_text(captions[-1])
  tokenizer.train(captions, folder / "tokenizer.model", vocab_size=300)
  path = folder / "small.py"
  path.write_text(_source(images, folder / "tokenizer.model"))
  return path


def _source(images: Path, model: Path) -> str:
  """Returns the source of the small config."""
  return textwrap.dedent(f"""
      import ml_collections

      def get_config(arg=None):
        c = ml_collections.ConfigDict()
        c.seed, c.total_steps, c.log_steps = 0, 12, 1
        c.batch_size, c.microbatch, c.image_size, c.text_len = 8, 0, 16, 8
        image = "decode|resize(16)|value_range(-1,1)"
        text = 'lower|tokenize(max_len=8, model="{model}")'
        c.preprocess = dict(image=image, text=text)
        c.data = dict(path="{images}", split="train", max_replaced_share=0.2)
        c.data.pp = (
            f'decode|affine()|resize(16)|value_range(-1,1)|{{text}}'
            '|keep("image","text")'
        )
        c.model = dict(
            image=dict(width=32, depth=1, mlp_dim=64, num_heads=2, patch=8),
            text=dict(
                width=32, depth=1, mlp_dim=64, num_heads=2, vocab_size=300
            ),
            out_dim=(None, 32), bias_init=-2.0,
        )
        c.loss = dict(name="ring_sigmoid")
        c.optim = dict(
            lr=1e-3, wd=1e-4,
            schedule=[(".*", dict(decay="cosine", warmup_steps=2))],
        )
        c.mesh = dict(data=-1)
        c.sharding = [(".*", "fsdp")]
        c.evals = dict(
            shades=dict(
                type="zeroshot", dataset="shades", path="{images}",
                split="validation", text="text", classes=["train"],
                every_steps=5,
            ),
            held=dict(
                type="loss", dataset="held", path="{images}",
                split="train", loss="sigmoid", batch_size=8, every_steps=6,
            ),
        )
        c.ckpt = dict(save_steps=4, keep=2)
        return c
  """)


def disk(folder: Path) -> dict[str, bytes | None]:
  """Returns all paths in a folder with their contents, and None for folders."""
  return {
      str(path.relative_to(folder)): path.read_bytes()
      if path.is_file()
      else None
      for path in folder.rglob("*")
  }


def table(verdicts: Sequence[tuple[Start, Verdict]]) -> str:
  """Returns the number of verdicts for each kind of change, as text.

  A start with changes of two kinds counts for both, and once in the last row.
  """
  counts: dict[str, collections.Counter] = collections.defaultdict(
      collections.Counter
  )
  for start, verdict in verdicts:
    kinds = {flag.kind for flag in start.changes} | {f"--{start.command}"}
    for kind in (*kinds, "all starts"):
      counts[kind][verdict.kind] += 1
  names = [
      start_verdicts.RESUMED,
      start_verdicts.REFUSED,
      start_verdicts.DIVERGED,
      FAILED,
  ]
  last = counts.pop("all starts", collections.Counter())
  rows = [f"{'change of':12} " + " ".join(f"{n:>8}" for n in names)]
  for kind, count in [*sorted(counts.items()), ("all starts", last)]:
    rows.append(f"{kind:12} " + " ".join(f"{count[n]:8}" for n in names))
  return "\n".join(rows)


def failure(start: Start, verdict: Verdict, outcome: Outcome) -> str:
  """Returns a failure as text, with what repeats it."""
  lines = [f"FAILED {start}", *(f"  {p:.500}" for p in verdict.problems[:8])]
  lines += [f"  | {line:.300}" for line in outcome.err.splitlines()[-4:]]
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  """Makes the starts, and prints the table."""
  del argv
  numbers: Sequence[int] = range(_CHANGES.value)
  if _ONLY.value is not None:
    numbers = [_ONLY.value]
  if not numbers:
    raise UserError(f"--changes must be at least 1; got {_CHANGES.value}.")
  verdicts = []
  with tempfile.TemporaryDirectory() as folder, _forks() as launch:
    place = Place(Path(folder), launch, _CONFIG.value)
    place.train()
    for number in numbers:
      begin, start = time.monotonic(), place.draw(_SEED.value, number)
      verdict, outcome = place.judge(start)
      verdicts.append((start, verdict))
      seconds = time.monotonic() - begin
      if _EACH.value or _ONLY.value is not None:
        print(f"{verdict.kind} {seconds:.1f} s {start}\n{outcome.err}")
      if verdict.kind == FAILED:
        print(failure(start, verdict, outcome), flush=True)
  print(table(verdicts))
  return int(any(v.kind == FAILED for _, v in verdicts))


@contextlib.contextmanager
def _forks() -> Iterator[Launch]:
  """Yields a launch by forks of a process that has imported everything."""
  sys.path.append(str(Path(__file__).parents[1] / "tests"))
  import commands

  server = commands.Commands()
  try:
    yield lambda module, arguments, seconds: in_time(
        server.start(module, *arguments), seconds
    )
  finally:
    server.close()


def in_time(running: Any, seconds: float) -> tuple[int | None, str, str]:
  """Returns the status of a command and its output; None if it is too slow."""
  end = time.monotonic() + seconds
  while (status := running.poll()) is None and time.monotonic() < end:
    time.sleep(0.02)
  if status is None:
    running.kill()
    while running.poll() is None:
      time.sleep(0.02)
  return status, *running.read()


if __name__ == "__main__":
  _CHANGES = flags.DEFINE_integer("changes", 200, "Number of starts.")
  _CONFIG = flags.DEFINE_string(
      "config", None, "Config of the run; by default a small one is made."
  )
  _ONLY = flags.DEFINE_integer("only", None, "Make the start of this number.")
  _SEED = flags.DEFINE_integer("random_seed", 0, "Seed of all starts.")
  _EACH = flags.DEFINE_bool("each", False, "Print each start.")
  cli.main(main)
