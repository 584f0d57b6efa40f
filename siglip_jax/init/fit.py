"""Fitting of saved weights to a part of a model."""

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
  """The result of fitting weights to a part; names are those within the part.

  Attributes:
    arrays: name -> array to put into the model, including resampled ones.
    resampled: name -> the old grid and the new one, in words.
    skipped: names in the weights that `dont_load` excludes.
    unknown: names in the weights that the model does not have.
    initial: names in the model that keep their initial values.
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
  """Fits weights to a part of the model.

  Blocks are stacked or unrolled to match the model, and an image tower's
  position embedding is resampled to the model's grid.

  Args:
    given: nested dict of arrays, as read.
    wanted: nested dict of the arrays or shapes that the part has in the model.
    dont_load: regexes of names in the part that keep their initial values.
    source: path of the weights, for error messages.
    part: part of the model: "img", "txt", "t" or "b".

  Raises:
    UserError: a regex matches nothing, or the weights lack a parameter of the
      model or have it in another shape.
  """
  where = f"config.init.{part} from {source}"
  targets = tree.flatten(wanted)
  _check_depth(tree.flatten(given), targets, where)
  stacked = any("encoderblock/" in name for name in targets)
  weights = tree.flatten(
      layouts.scanned(given) if stacked else layouts.unrolled(given)
  )
  excluded = _matching(dont_load, weights.keys() | targets.keys(), part)
  missing = sorted(targets.keys() - weights.keys() - excluded)
  if missing:
    raise UserError(
        f"{where}: every parameter must be in the weights, or match one of"
        f" dont_load to start at random; {_listed(missing)} are in neither."
    )
  arrays, resampled = {}, {}
  for name in sorted(targets.keys() - excluded):
    array, shape = weights[name], targets[name].shape
    if array.shape != shape and (part, name) == ("img", "pos_embedding"):
      array = resample(array, shape, where=where)
      resampled[name] = f"{_grid(weights[name].shape)} to {_grid(shape)}"
    if array.shape != shape:
      raise UserError(
          f"{where}: {name} has shape {array.shape} in the weights, and {shape}"
          f" in the model. Change the config, or leave it out with dont_load."
      )
    arrays[name] = array.astype(targets[name].dtype, copy=False)
  if not arrays:
    raise UserError(f"{where}: dont_load leaves nothing to load. Narrow it.")
  return Fitted(
      arrays=arrays,
      resampled=resampled,
      skipped=sorted(excluded & weights.keys()),
      unknown=sorted(weights.keys() - targets.keys() - excluded),
      initial=sorted(targets.keys() & excluded),
  )


def resample(
    positions: Float[np.ndarray, "1 N D"],
    shape: tuple[int, ...],
    *,
    where: str,
) -> Float[np.ndarray, "1 M D"]:
  """Resamples a square grid of position embeddings to another resolution.

  The interpolation is bilinear and keeps the corners, as in big_vision (scipy's
  zoom), so that fine-tuning starts from the same numbers. The grid must not
  have a row for a class token: `old_vits` removes it and adds it to the token.

  Args:
    positions: the position embedding.
    shape: shape to resample to, (1, M, D).
    where: start of the error message.

  Raises:
    UserError: a grid is not square, or the widths differ.
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


def _check_depth(weights: Mapping, targets: Mapping, where: str) -> None:
  """Refuses another depth: `fit` would take extra blocks for unknown names."""
  weights_depth, model_depth = _depth(weights), _depth(targets)
  if weights_depth != model_depth and weights_depth and model_depth:
    raise UserError(
        f"{where}: the weights have {weights_depth} blocks, the model"
        f" {model_depth}. Change depth or variant in config.model."
    )


def _depth(flat: Mapping) -> int:
  blocks = [(m, x) for n, x in flat.items() if (m := _BLOCK.fullmatch(n))]
  if any(m[1] is None for m, _ in blocks):
    return max(x.shape[0] for m, x in blocks if m[1] is None)
  return len({m[1] for m, _ in blocks})


def _matching(
    regexes: Sequence[str], names: Iterable[str], part: str
) -> set[str]:
  names, matched = sorted(names), set()
  for regex in regexes:
    try:
      hits = {n for n in names if re.fullmatch(regex, n)}
    except re.error as e:
      raise UserError(
          f"config.init.{part}.dont_load: {regex!r} is not a regular"
          f" expression: {e}."
      ) from None
    if not hits:
      raise UserError(
          f"config.init.{part}.dont_load: every regex must match a name, and"
          f" {regex!r} matches none. Names are like {_listed(names)}."
      )
    matched |= hits
  return matched


def _grid(shape: tuple[int, ...]) -> str:
  side = math.isqrt(shape[1])
  return f"{side}x{side}"


def _listed(names: Sequence[str]) -> str:
  rest = len(names) - 3
  return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
