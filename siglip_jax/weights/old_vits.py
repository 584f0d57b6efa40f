"""Old layouts of ViT weights, such as AugReg's (arXiv 2106.10270).

What a lone ViT saved before today's names differs in: where the position
embedding is kept (in three places so far), whether it has a row for the class
token, how submodules are numbered, and whether the MAP head is a module.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

_MAP_HEAD = (
    "probe",
    "LayerNorm_0",
    "MlpBlock_0",
    "MultiHeadDotProductAttention_0",
)
_NUMBERED = re.compile(
    r"(LayerNorm|MlpBlock|MultiHeadDotProductAttention)_(\d+)"
)


def is_vit(params: Mapping) -> bool:
  """Whether these are an image tower's parameters with nothing around them."""
  return "embedding" in params and "Transformer" in params


def modern(saved: Mapping) -> dict:
  """An image tower's parameters by today's names.

  A classifier's `head` and `pre_logits` stay, for the caller to drop.
  """
  params: dict[str, Any] = _renumbered(saved)
  encoder: dict[str, Any] = params["Transformer"]
  if "posembed_input" in encoder:
    params |= encoder.pop("posembed_input")
  if "pos_embedding" in encoder:
    params["pos_embedding"] = encoder.pop("pos_embedding")
  if "probe" in params:
    head = {name: params.pop(name) for name in _MAP_HEAD if name in params}
    params["MAPHead_0"] = head
  return _without_class_position(params)


def _renumbered(node: Mapping) -> dict:
  """Submodules numbered by kind: once, all in a block shared one count."""
  counts: dict[str, int] = {}
  found = {}
  for name in sorted(node):
    value = node[name]
    new = _renumbered(value) if isinstance(value, Mapping) else value
    if kind := _NUMBERED.fullmatch(name):
      counts[kind[1]] = counts.get(kind[1], -1) + 1
      name = f"{kind[1]}_{counts[kind[1]]}"
    found[name] = new
  return found


def _without_class_position(params: dict) -> dict:
  """The class token's own position added to the token, and off the grid."""
  positions = params.get("pos_embedding")
  if positions is None or positions.ndim != 3:
    return params
  rows = positions.shape[1]
  if math.isqrt(rows) ** 2 == rows or math.isqrt(rows - 1) ** 2 != rows - 1:
    return params
  params["pos_embedding"] = positions[:, 1:]
  if "cls" in params:
    params["cls"] = np.add(params["cls"], positions[:, :1])
  return params
