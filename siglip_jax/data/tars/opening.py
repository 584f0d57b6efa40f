"""The opening of tars as a source: which samples it has, and which texts."""

from collections.abc import Mapping
from collections.abc import Sequence

from jaxtyping import Bool
import numpy as np

from siglip_jax.data import remote
from siglip_jax.data.tars import build
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars import members
from siglip_jax.data.tars.manifest import MAKE
from siglip_jax.data.tars.manifest import SPLITS
from siglip_jax.data.tars.manifest import Manifest
from siglip_jax.data.tars.remote_source import RemoteTarSource
from siglip_jax.data.tars.selection import Selection
from siglip_jax.data.tars.source import BLOCK_MB
from siglip_jax.data.tars.source import TarSource
from siglip_jax.data.tars.table import Layout
from siglip_jax.data.texts import Texts
from siglip_jax.errors import UserError

_TEXT = "txt"


def tar_source(
    tars: str | Sequence[str],
    *,
    index: str | None = None,
    image: str | None = None,
    text: str | None = None,
    texts: Mapping[str, float] | None = None,
    split: str = "all",
    block_mb: int = BLOCK_MB,
    in_flight: int = 16,
    select: Bool[np.ndarray, " N"] | None = None,
) -> TarSource:
  """Returns a source of the samples of tars.

  A sample without an image, or without any of the texts, is not in it.

  Args:
    tars: pattern of the tars, as "cc12m/{00000..01242}.tar", or several;
      local, gs://, s3://, hf:// or https://.
    index: folder of their index; by default `index` beside them. Local tars of
      up to 2 GB do without.
    image: suffixes of images, as "jpg;png": the first that a sample has is its
      image. By default those that the index was made with.
    text: key of the texts: a member's suffix, "json:FIELD", or "txt:lines" for
      a text a line. By default "txt"; if there are only labels (.cls), none.
    texts: keys of texts with their weights, instead of `text`.
    split: "all", "train" or "validation". A hash of a sample's key puts a
      twentieth of the samples in validation.
    block_mb: size in megabytes of a block, which is fetched as a whole from a
      bucket.
    in_flight: number of requests that a large remote read may have out.
    select: which samples to have, of those that the source would have without.

  Raises:
    UserError: tars are missing or changed, or have no index; or no sample fits.
  """
  if split not in SPLITS:
    raise UserError(f"The split of tars is {', '.join(SPLITS)}; got {split!r}.")
  if not isinstance(block_mb, int) or not 1 <= block_mb <= 1 << 20:
    raise UserError(
        f"`block_mb` must be a number of megabytes from 1; got {block_mb!r}."
    )
  suffixes = None if image is None else build.suffixes(image)
  shards = index_lib.opened(tars, index, suffixes)
  manifest = shards.index.manifest
  images = _images(manifest, suffixes)
  keys = _texts(manifest, text, texts)
  layouts = _layouts(manifest, images, keys)
  selection = Selection.of(
      manifest, shards.numbers, layouts=layouts, split=split, select=select
  )
  if not selection.starts[-1]:
    raise UserError(
        f"The tars must have samples in the split {split!r}; of"
        f" {manifest.samples[shards.numbers].sum()} with an image, none is"
        " left. A twentieth goes to validation by a hash of the key; use"
        " split='all', or another filter."
    )
  far = any(map(remote.is_remote, shards.paths))
  make = RemoteTarSource if far else TarSource
  return make(
      shards,
      image=images,
      texts=keys,
      selection=selection,
      block_mb=block_mb,
      in_flight=in_flight,
  )


def _images(
    manifest: Manifest, suffixes: Sequence[str] | None
) -> Sequence[str]:
  """Returns the suffixes of images, which the index must know."""
  if suffixes is None:
    return manifest.image
  if not set(suffixes) <= set(manifest.image):
    raise UserError(
        "`image` must name suffixes that the index was made with,"
        f" {', '.join(manifest.image)}; got {', '.join(suffixes)}. Make the"
        f" index again: {MAKE} TARS --image='{';'.join(suffixes)}'."
    )
  return suffixes


def _texts(
    manifest: Manifest, text: str | None, texts: Mapping[str, float] | None
) -> Texts | None:
  """Returns the texts; None if none are asked for and there are only labels."""
  there = {suffix for layout in manifest.layouts for suffix in layout}
  only_labels = _TEXT not in there and members.LABEL in there
  if text is None and texts is None and only_labels:
    return None
  return Texts.of(text, texts, default=_TEXT)


def _layouts(
    manifest: Manifest, images: Sequence[str], texts: Texts | None
) -> set[Layout]:
  """Returns the layouts of samples with an image, and a text or a label.

  Raises:
    UserError: there are none; the message says which there are.
  """
  needed = {members.LABEL}
  if texts:
    needed = {members.Key.of(key).suffix for key in texts.keys}
  layouts = {
      layout
      for layout in manifest.layouts
      if set(layout) & set(images) and set(layout) & needed
  }
  if not layouts:
    totals = sorted(manifest.of_layout().items(), key=lambda item: -item[1])
    samples = "; ".join(
        f"{n} of {' '.join(layout)}" for layout, n in totals[:5]
    )
    raise UserError(
        f"A sample needs an image ({', '.join(images)}) and a text"
        f" ({', '.join(sorted(needed))}); the tars have {samples}. Name another"
        " suffix as `text`, or 'json:FIELD'."
    )
  return layouts
