"""A folder of images that can be searched by text."""

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

_AT_A_TIME = 64  # images per update of the progress bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
  """Images and their embeddings.

  Attributes:
    model: model that made the embeddings.
    paths: paths of the images.
    zimg: embeddings of the images, one per row.
  """

  model: SigLIP
  paths: Sequence[Path]
  zimg: Float[np.ndarray, "N D"]

  def search(self, text: str, count: int) -> list[tuple[Path, float]]:
    """Returns the images nearest to a text, with probabilities, best first."""
    ztxt = self.model.encode_text([text])
    # Sort by cosine: the probabilities of distant images all round to zero.
    order = np.argsort(-(self.zimg @ ztxt[0]), kind="stable")[:count]
    probs = self.model.probabilities(self.zimg[order], ztxt)[:, 0]
    return [
        (self.paths[i], float(p)) for i, p in zip(order, probs, strict=True)
    ]


def make(model: SigLIP, folder: str | Path) -> Album:
  """Encodes all images in a folder and its subfolders.

  Files that cannot be read as images are left out, and named in the log.

  Raises:
    UserError: the folder is missing, or has no images that can be read.
  """
  folder = Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(f"There is no folder {folder}: give a folder of images.")
  paths = sorted(
      p
      for p in folder.rglob("*")
      if p.suffix.lower() in folders.IMAGES and p.is_file()
  )
  readable, zimg = [], []
  with progress.Pace("images", total=len(paths)) as pace:
    for start in range(0, len(paths), _AT_A_TIME):
      chunk = paths[start : start + _AT_A_TIME]
      for path, z in _encoded(model, chunk):
        readable.append(path)
        zimg.append(z)
      pace.update(start + len(chunk))
  if not readable:
    raise UserError(
        f"The folder {folder} has no images that can be read, of"
        f" {len(paths)} files named as such ({', '.join(folders.IMAGES)})."
    )
  return Album(model=model, paths=readable, zimg=np.stack(zimg))


def _encoded(
    model: SigLIP, paths: Sequence[Path]
) -> list[tuple[Path, np.ndarray]]:
  """Returns the images that can be read, with their embeddings."""
  try:
    return list(zip(paths, model.encode_image(paths), strict=True))
  except UserError as e:
    if len(paths) == 1:
      logging.warning("Left out: %s", e)
      return []
  middle = len(paths) // 2  # bisect, as few files are bad
  return _encoded(model, paths[:middle]) + _encoded(model, paths[middle:])
