"""A folder of pictures, to be searched by text."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

from jaxtyping import Float
import numpy as np

from siglip_jax.data import folders
from siglip_jax.errors import UserError
from siglip_jax.siglip import SigLIP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
  """Pictures and their embeddings.

  Attributes:
    model: what made the embeddings.
    paths: the pictures.
    zimg: an embedding each.
  """

  model: SigLIP
  paths: Sequence[Path]
  zimg: Float[np.ndarray, "N D"]

  def search(self, text: str, count: int) -> list[tuple[Path, float]]:
    """The pictures nearest to a text and their probabilities, best first."""
    ztxt = self.model.encode_text([text])
    # By cosine: far probabilities round to the same zero.
    order = np.argsort(-(self.zimg @ ztxt[0]), kind="stable")[:count]
    found = self.model.probabilities(self.zimg[order], ztxt)[:, 0]
    return [
        (self.paths[i], float(p)) for i, p in zip(order, found, strict=True)
    ]


def make(model: SigLIP, folder: str | Path) -> Album:
  """Encodes all pictures of a folder and its subfolders.

  Raises:
    UserError: no such folder, none in it, or one that cannot be read.
  """
  folder = Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(f"There is no folder {folder}: give a folder of pictures.")
  paths = sorted(
      p
      for p in folder.rglob("*")
      if p.suffix.lower() in folders.PICTURES and p.is_file()
  )
  if not paths:
    raise UserError(
        f"The folder {folder} has no pictures ({', '.join(folders.PICTURES)})."
    )
  return Album(model=model, paths=paths, zimg=model.encode_image(paths))
