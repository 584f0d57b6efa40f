"""A folder of images, to be searched by text."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

from absl import logging
from jaxtyping import Float
import numpy as np

from siglip_jax import progress
from siglip_jax.data import folders
from siglip_jax.errors import UserError
from siglip_jax.inference.model import SigLIP

_AT_A_TIME = 64  # between two looks at the progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
  """Images and their embeddings.

  Attributes:
    model: what made the embeddings.
    paths: the images.
    zimg: an embedding each.
  """

  model: SigLIP
  paths: Sequence[Path]
  zimg: Float[np.ndarray, "N D"]

  def search(self, text: str, count: int) -> list[tuple[Path, float]]:
    """The images nearest to a text and their probabilities, best first."""
    ztxt = self.model.encode_text([text])
    # By cosine: far probabilities round to the same zero.
    order = np.argsort(-(self.zimg @ ztxt[0]), kind="stable")[:count]
    found = self.model.probabilities(self.zimg[order], ztxt)[:, 0]
    return [
        (self.paths[i], float(p)) for i, p in zip(order, found, strict=True)
    ]


def make(model: SigLIP, folder: str | Path) -> Album:
  """Encodes all images of a folder and its subfolders.

  What cannot be read as an image is left out, and named in the log.

  Raises:
    UserError: no such folder, or none in it that can be read.
  """
  folder = Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(f"There is no folder {folder}: give a folder of images.")
  paths = sorted(
      p
      for p in folder.rglob("*")
      if p.suffix.lower() in folders.IMAGES and p.is_file()
  )
  read, zimg = [], []
  with progress.Pace("images", total=len(paths)) as pace:
    for start in range(0, len(paths), _AT_A_TIME):
      some = paths[start : start + _AT_A_TIME]
      for path, z in _encoded(model, some):
        read.append(path)
        zimg.append(z)
      pace.update(start + len(some))
  if not read:
    raise UserError(
        f"The folder {folder} has no images that can be read, of"
        f" {len(paths)} files named as such ({', '.join(folders.IMAGES)})."
    )
  return Album(model=model, paths=read, zimg=np.stack(zimg))


def _encoded(
    model: SigLIP, paths: Sequence[Path]
) -> list[tuple[Path, np.ndarray]]:
  """Those that can be read, with their embeddings."""
  try:
    return list(zip(paths, model.encode_image(paths), strict=True))
  except UserError as e:
    if len(paths) == 1:
      logging.warning("Left out: %s", e)
      return []
  middle = len(paths) // 2  # find it by halves: few are bad
  return _encoded(model, paths[:middle]) + _encoded(model, paths[middle:])
