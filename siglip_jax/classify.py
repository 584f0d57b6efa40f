"""python -m siglip_jax.classify --model=WORKDIR IMAGE... --labels="a,b,c"."""

from collections.abc import Sequence
import json

from absl import flags
from rich import console
from rich import table
from rich import text

from siglip_jax import cli
from siglip_jax.errors import UserError
from siglip_jax.evals import prompts
from siglip_jax.inference import flags as model_flags


def define_flags() -> None:
  """Defines the flags of the command."""
  model_flags.define()
  flags.DEFINE_list("labels", [], "Labels, separated by commas.")
  flags.DEFINE_multi_string(
      "template",
      list(prompts.NAME),
      "Sentence with {} for a label; repeatable.",
  )
  flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv: Sequence[str]) -> int:
  """Prints the probability of every label for every image."""
  images, labels = list(argv[1:]), [s.strip() for s in flags.FLAGS.labels]
  if not images or not labels:
    raise UserError(
        'Give a model, images and labels: --model=DIR a.png --labels="a,b"'
    )
  if "" in labels or len(set(labels)) < len(labels):
    raise UserError(f"Labels must differ and be words; got {labels}.")
  prompts.check(flags.FLAGS.template, "--template")
  probabilities = model_flags.load().classify(
      images, labels, templates=flags.FLAGS.template
  )
  rows = [
      {
          "image": p,
          "probabilities": dict(zip(labels, map(float, row), strict=True)),
      }
      for p, row in zip(images, probabilities, strict=True)
  ]
  if flags.FLAGS.json:
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    return 0
  # Text objects, because names may contain [brackets] that are not markup.
  grid = table.Table()
  for name in ("image", *labels):
    grid.add_column(text.Text(name), overflow="fold")
  for p, row in zip(images, probabilities, strict=True):
    best = row.max()
    grid.add_row(
        text.Text(p),
        *(text.Text(f"{x:.1%}", "bold" if x == best else "") for x in row),
    )
  out = console.Console(highlight=False)
  if not out.is_terminal:  # then it has no width to fold names to
    out.width = 10_000
  out.print(grid)
  return 0


if __name__ == "__main__":
  cli.main(main, define_flags, arguments=True)
