"""Image search: the images of a folder that are nearest to a text.

  python examples/search_folder.py MODEL FOLDER TEXT

MODEL is a run or a transformers folder. Prints cosines and paths, the nearest
image first. With the run of `make train` and 219 emoji that it was not trained
on:

  $ python examples/search_folder.py runs/emoji images running
   0.252  images/man_running_medium-light_skin_tone.png
   0.228  images/woman_running_medium-dark_skin_tone.png
   0.187  images/person_running_facing_right_medium-dark_skin_tone.png
   0.176  images/person_running_facing_right_light_skin_tone.png
   0.119  images/man_running_facing_right_medium_skin_tone.png
"""

from pathlib import Path
import sys

import siglip_jax
from siglip_jax.data.folders import IMAGES

SHOWN = 5


def main(path: str, folder: str, text: str) -> None:
  """Prints the nearest images, the nearest first."""
  paths = sorted(
      p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGES
  )
  if not paths:
    sys.exit(f"error: {folder} has no images ({', '.join(IMAGES)}).")
  # Images are read and encoded 64 at a time, so the folder may be large.
  model = siglip_jax.load(path, batch_size=64)
  zimg = model.encode_image(paths)  # (N, D)
  ztxt = model.encode_text([text])  # (1, D)
  # Both are L2-normalised, so their dot product is the cosine.
  cosines = (zimg @ ztxt.T)[:, 0]
  for i in (-cosines).argsort(kind="stable")[:SHOWN]:
    print(f"{cosines[i]:6.3f}  {paths[i]}")


if __name__ == "__main__":
  if len(sys.argv) != 4:
    sys.exit(__doc__)
  main(*sys.argv[1:])
