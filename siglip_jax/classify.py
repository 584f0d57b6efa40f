"""python -m siglip_jax.classify --model=WORKDIR PICTURE... --labels="a,b,c"."""

from collections.abc import Sequence
import json

from absl import flags
from rich import console
from rich import table

import siglip_jax
from siglip_jax import cli
from siglip_jax.errors import UserError

_MODEL = flags.DEFINE_string("model", None, "Workdir of a finished run.")
_LABELS = flags.DEFINE_list("labels", [], "Labels, with commas between them.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv: Sequence[str]) -> int:
  """Prints the probability of every label for every picture."""
  pictures, labels = list(argv[1:]), [s.strip() for s in _LABELS.value]
  if not _MODEL.value or not pictures or not labels:
    raise UserError(
        'Give a model, pictures and labels: --model=DIR a.png --labels="a,b"'
    )
  probabilities = siglip_jax.load(_MODEL.value).classify(pictures, labels)
  rows = [
      {
          "picture": p,
          "probabilities": dict(zip(labels, map(float, row), strict=True)),
      }
      for p, row in zip(pictures, probabilities, strict=True)
  ]
  if _JSON.value:
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    return 0
  shown = table.Table("picture", *labels)
  for p, row in zip(pictures, probabilities, strict=True):
    best = row.max()
    shown.add_row(
        p, *(f"[bold]{x:.1%}[/]" if x == best else f"{x:.1%}" for x in row)
    )
  console.Console().print(shown)
  return 0


if __name__ == "__main__":
  cli.run(main, arguments=True)
