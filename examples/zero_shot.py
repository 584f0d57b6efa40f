"""Zero-shot classification: how well each of your labels fits an image.

  python examples/zero_shot.py MODEL IMAGE LABEL...

MODEL is a run or a transformers folder. Each probability answers its own
question, "does this label fit?", so they need not sum to one. With the run of
`make train` and an emoji that it was not trained on:

  $ python examples/zero_shot.py runs/emoji vampire.png vampire zombie pilot
   89.8%  vampire
    0.0%  zombie
    0.0%  pilot
"""

import sys

import siglip_jax


def main(path: str, image: str, labels: list[str]) -> None:
  """Prints the labels, the most probable first."""
  model = siglip_jax.load(path)
  (probabilities,) = model.classify([image], labels)
  for i in (-probabilities).argsort():
    print(f"{probabilities[i]:6.1%}  {labels[i]}")


if __name__ == "__main__":
  if len(sys.argv) < 4:
    sys.exit(__doc__)
  main(sys.argv[1], sys.argv[2], sys.argv[3:])
