"""Weights on disk made to fit a part of a model, or refused."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
import re

from jaxtyping import Float
import numpy as np
import scipy.ndimage

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.weights import layouts

_BLOCK = re.compile(r".*\bencoderblock(?:_(\d+))?/.*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
  """What becomes of a part of the model, by names within it.

  Attributes:
    arrays: to put there; `resampled` are among them.
    resampled: name -> in words, from what grid to what.
    skipped: in the weights, kept out by `dont_load`.
    unknown: in the weights and not in the model.
    initial: in the model, left at their initial values.
  """

  arrays: dict[str, np.ndarray]
  resampled: dict[str, str]
  skipped: list[str]
  unknown: list[str]
  initial: list[str]


def fit(
    given: Mapping,
    wanted: Mapping,
    dont_load: Sequence[str] = (),
    *,
    source: str,
    part: str,
) -> Fitted:
  """Makes the weights of a part fit it.

  Blocks are stacked or taken apart as the model has them, and the position
  embedding of an image tower is resampled to the model's grid.

  Args:
    given: nested dict of arrays, as read.
    wanted: nested dict of arrays or shapes: the part in the model.
    dont_load: regexes of names in the part that keep their initial values.
    source: where the weights are from, for messages.
    part: "img", "txt", "t" or "b"; where they go.

  Raises:
    UserError: a regex that matches nothing, or a parameter of the model that
      the weights lack or have in another shape.
  """
  where = f"config.init.{part} from {source}"
  wants = tree.flatten(wanted)
  _check_depth(tree.flatten(given), wants, where)
  stacked = any("encoderblock/" in name for name in wants)
  gives = tree.flatten(
      layouts.scanned(given) if stacked else layouts.unrolled(given)
  )
  kept_out = _matched(dont_load, gives.keys() | wants.keys(), part)
  missing = sorted(wants.keys() - gives.keys() - kept_out)
  if missing:
    raise UserError(
        f"{where}: every parameter must be in the weights, or match one of"
        f" dont_load to start at random; {_some(missing)} are in neither."
    )
  arrays, resampled = {}, {}
  for name in sorted(wants.keys() - kept_out):
    array, shape = gives[name], wants[name].shape
    if array.shape != shape and (part, name) == ("img", "pos_embedding"):
      array = resample(array, shape, where=where)
      resampled[name] = f"{_grid(gives[name].shape)} to {_grid(shape)}"
    if array.shape != shape:
      raise UserError(
          f"{where}: {name} has shape {array.shape} in the weights, and {shape}"
          f" in the model. Change the config, or leave it out with dont_load."
      )
    arrays[name] = array.astype(wants[name].dtype, copy=False)
  if not arrays:
    raise UserError(f"{where}: dont_load leaves nothing to load. Narrow it.")
  return Fitted(
      arrays=arrays,
      resampled=resampled,
      skipped=sorted(kept_out & gives.keys()),
      unknown=sorted(gives.keys() - wants.keys() - kept_out),
      initial=sorted(wants.keys() & kept_out),
  )


def resample(
    positions: Float[np.ndarray, "1 N D"],
    shape: tuple[int, ...],
    *,
    where: str,
) -> Float[np.ndarray, "1 M D"]:
  """A square grid of position embeddings at another resolution.

  Bilinear with the corners kept, as big_vision does it (scipy's zoom), so that
  fine-tuning starts from the same numbers. There must be no row for a class
  token: `old_vits` takes it off and adds it to the token.

  Raises:
    UserError: a grid that is not square, or another width.
  """
  rows, width = positions.shape[1:]
  old, new = math.isqrt(rows), math.isqrt(shape[1])
  if old**2 != rows or new**2 != shape[1] or width != shape[2]:
    raise UserError(
        f"{where}: pos_embedding of shape {positions.shape} cannot be resampled"
        f" to {shape}: both must be square grids of one width."
    )
  grid = positions.reshape(old, old, width).astype(np.float32)
  resized = np.empty((new, new, width), np.float32)
  factors = (new / old, new / old, 1)
  scipy.ndimage.zoom(grid, factors, output=resized, order=1)
  return resized.reshape(1, new * new, width)


def _check_depth(gives: Mapping, wants: Mapping, where: str) -> None:
  """Blocks too many would else pass for something the model does not have."""
  there, here = _depth(gives), _depth(wants)
  if there != here and there and here:
    raise UserError(
        f"{where}: the weights have {there} blocks, the model {here}. Change"
        " depth or variant in config.model."
    )


def _depth(flat: Mapping) -> int:
  blocks = [(m, x) for n, x in flat.items() if (m := _BLOCK.fullmatch(n))]
  if any(m[1] is None for m, _ in blocks):
    return max(x.shape[0] for m, x in blocks if m[1] is None)
  return len({m[1] for m, _ in blocks})


def _matched(
    regexes: Sequence[str], names: Iterable[str], part: str
) -> set[str]:
  names, matched = sorted(names), set()
  for regex in regexes:
    try:
      hits = {n for n in names if re.fullmatch(regex, n)}
    except re.error as e:
      raise UserError(
          f"config.init.{part}.dont_load: {regex!r} is no regular expression:"
          f" {e}."
      ) from None
    if not hits:
      raise UserError(
          f"config.init.{part}.dont_load: every regex must match a name, and"
          f" {regex!r} matches none. Names are like {_some(names)}."
      )
    matched |= hits
  return matched


def _grid(shape: tuple[int, ...]) -> str:
  side = math.isqrt(shape[1])
  return f"{side}x{side}"


def _some(names: Sequence[str]) -> str:
  rest = len(names) - 3
  return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
