"""Conversion of old layouts of ViT weights, such as AugReg's.

AugReg is arXiv 2106.10270. Old files of a single ViT differ from the current
layout in where the position embedding is stored (three places so far), whether
it has a row for the class token, how submodules are numbered, and whether the
MAP head is a module.
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
  """Whether these are the parameters of an image tower alone."""
  return "embedding" in params and "Transformer" in params


def modern(saved: Mapping) -> dict:
  """Converts an image tower's parameters to the current layout.

  A classifier's `head` and `pre_logits` are kept; the caller drops them.
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
  """Numbers submodules by kind; in old files a block's kinds share a count."""
  counts: dict[str, int] = {}
  renumbered = {}
  for name in sorted(node):
    value = node[name]
    child = _renumbered(value) if isinstance(value, Mapping) else value
    if kind := _NUMBERED.fullmatch(name):
      counts[kind[1]] = counts.get(kind[1], -1) + 1
      name = f"{kind[1]}_{counts[kind[1]]}"
    renumbered[name] = child
  return renumbered


def _without_class_position(params: dict) -> dict:
  """Adds the class token's position to the token, and drops it from the grid.

  A position embedding without a row for the class token is left unchanged.
  """
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
