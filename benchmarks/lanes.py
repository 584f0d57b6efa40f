"""Compares the order of lanes with the global shuffle by what a model learns.

  python benchmarks/lanes.py OUT --steps=3000 --seeds=0,1,2

The emoji are written as small tars, sorted by code point, so that a tar holds
things of one kind: animals, flags, faces of one group. That is the hardest case
for an order that reads whole blocks. configs/emoji.py is then trained on them,
with each seed in both orders, and nothing else differs. The table has the means
over the seeds, and the difference of lanes to the global shuffle with its 95 %
interval (Student's t, paired by seed). Finished runs in OUT are kept.

With 100 tars, 8 lanes and windows of two tars, a batch comes from 16 % of the
data.
"""

import argparse
import io
import json
import os
from pathlib import Path
import re
import runpy
import tarfile

import numpy as np
from rich import console as rich_console
from rich import table as rich_table
from scipy import stats

from siglip_jax import metrics
from siglip_jax import train
from siglip_jax.data import kinds

SHARD = 64  # samples
ORDERS = {"global": "global", "lanes": dict(lanes=8, window=2)}
SCORES = (
    "zeroshot/other_drawing/top1",
    "retrieval/unseen_combination/img2txt@1",
    "retrieval/unseen_combination/txt2img@1",
    "retrieval/unseen_thing/img2txt@5",
    "retrieval/unseen_thing/txt2img@5",
)


def write_tars(data_dir: str, folder: Path) -> str:
  """Writes the training emoji as tars, and returns their pattern."""
  source = kinds.make(name="emoji", split="train", data_dir=data_dir)
  records = [source[i] for i in range(len(source))]
  records.sort(key=lambda r: (r["thing"], r["id"], r["style"]))
  folder.mkdir(parents=True, exist_ok=True)
  for start in range(0, len(records), SHARD):
    path = folder / f"{start // SHARD:05d}.tar"
    with tarfile.open(path, "w") as tar:
      for i, record in enumerate(records[start : start + SHARD], start):
        meta = json.dumps({"name": record["names/en"]}).encode()
        for suffix, content in (("png", record["image"]), ("json", meta)):
          info = tarfile.TarInfo(f"{i:09d}.{suffix}")
          info.size = len(content)
          tar.addfile(info, io.BytesIO(content))
  return str(folder / "*.tar")


def run(tars: str, order, seed: int, args: argparse.Namespace) -> dict:
  """Trains once, unless that is done, and returns the final scores."""
  name = order if isinstance(order, str) else "lanes"
  workdir = Path(args.out) / f"{name}-{seed}"
  c = runpy.run_path("configs/emoji.py")["get_config"](f"steps={args.steps}")
  c.seed = seed
  c.data.pp = re.sub(r"choice\([^)]*\)\|", "", c.data.pp)  # one text a sample
  options = dict(pp=c.data.pp, max_replaced_share=0.0, num_threads=2)
  c.data = dict(
      tars=tars, text="json:name", split="all", order=order, **options
  )
  for each in c.evals.values():
    each.every_steps = args.steps
  if not _finished(workdir, args.steps):
    train.train_and_evaluate(c, workdir)
  return _finished(workdir, args.steps)


def _finished(workdir: Path, steps: int) -> dict:
  """Returns the scores at the last step; empty if the run is not there yet."""
  values = {}
  for line in metrics.read(workdir) if workdir.exists() else ():
    if line["step"] == steps:
      values |= {k: v for k, v in line.items() if k in SCORES}
  return values


def main() -> None:
  """Trains all runs and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("out")
  parser.add_argument("--data_dir", default="data")
  parser.add_argument("--steps", type=int, default=3000)
  parser.add_argument("--seeds", default="0,1,2")
  args = parser.parse_args()
  os.environ["TFDS_DATA_DIR"] = args.data_dir
  tars = write_tars(args.data_dir, Path(args.out) / "tars")
  seeds = [int(seed) for seed in args.seeds.split(",")]
  scores = {
      name: [run(tars, order, seed, args) for seed in seeds]
      for name, order in ORDERS.items()
  }
  table = rich_table.Table(
      "score", "global", "lanes", "difference", "95 % interval"
  )
  for score in SCORES:
    both = [np.array([r[score] for r in scores[name]]) for name in ORDERS]
    gain = both[1] - both[0]
    margin = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)
    table.add_row(
        score,
        *(f"{x.mean():.1%}" for x in both),
        f"{gain.mean():+.1%}",
        f"{gain.mean() - margin:+.1%} to {gain.mean() + margin:+.1%}",
    )
  rich_console.Console(width=110).print(table)


if __name__ == "__main__":
  main()
