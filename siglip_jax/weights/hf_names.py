"""Conversion between big_vision's parameters and a SiglipModel's tensors.

Names differ, and so do layouts: PyTorch stores a dense layer's weights as
(out, in), with the heads side by side, and puts an image's channels before its
rows. The pooling head has query, key and value in one tensor.
"""

from collections.abc import Mapping

import einops
import numpy as np

_ATTENTION = "MultiHeadDotProductAttention_0"
_DENSE = {"kernel": "weight", "bias": "bias"}
_NORM = {"scale": "weight", "bias": "bias"}
_HEAD = "img/MAPHead_0"
_JOINED = "vision_model.head.attention.in_proj"
_PATCHES = "vision_model.embeddings.patch_embedding"


def pairs(image_depth: int, text_depth: int) -> dict[str, str]:
  """Returns big_vision's name -> transformers' name, with blocks unrolled.

  The pooling head's query, key and value all map to `in_proj_*`.
  """
  names = {
      "t": "logit_scale",
      "b": "logit_bias",
      "img/pos_embedding": "vision_model.embeddings.position_embedding.weight",
      "txt/pos_embedding": "text_model.embeddings.position_embedding.weight",
      "txt/Embed_0/embedding": "text_model.embeddings.token_embedding.weight",
      f"{_HEAD}/probe": "vision_model.head.probe",
  }
  names |= _layer("img/embedding", _PATCHES, _DENSE)
  names |= _encoder("img/Transformer", "vision_model", image_depth)
  names |= _encoder("txt/Encoder_0", "text_model", text_depth)
  names |= _layer(
      "img/Transformer/encoder_norm", "vision_model.post_layernorm", _NORM
  )
  names |= _layer(
      "txt/Encoder_0/encoder_norm", "text_model.final_layer_norm", _NORM
  )
  names |= _layer(f"{_HEAD}/LayerNorm_0", "vision_model.head.layernorm", _NORM)
  names |= _mlp(_HEAD, "vision_model.head")
  out = "vision_model.head.attention.out_proj"
  names |= _layer(f"{_HEAD}/{_ATTENTION}/out", out, _DENSE)
  for part in ("query", "key", "value"):
    for ours, theirs in _DENSE.items():
      names[f"{_HEAD}/{_ATTENTION}/{part}/{ours}"] = f"{_JOINED}_{theirs}"
  names |= _layer("txt/head", "text_model.head", _DENSE)
  return names


def to_theirs(flat: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict:
  """Converts big_vision's parameters, by name, to transformers' tensors."""
  tensors: dict = {}
  for ours, theirs in names.items():
    if theirs.startswith(_JOINED):
      # `pairs` lists them in order: query, key, value.
      tensors.setdefault(theirs, []).append(_to_theirs(ours, flat[ours]))
    else:
      tensors[theirs] = _to_theirs(ours, flat[ours])
  return {
      name: np.concatenate(x) if isinstance(x, list) else x
      for name, x in tensors.items()
  }


def to_ours(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, heads: dict
) -> dict[str, np.ndarray]:
  """Converts transformers' tensors to parameters; the inverse of `to_theirs`.

  Args:
    tensors: arrays by transformers' names.
    names: the result of `pairs`.
    heads: number of attention heads of "img" and of "txt".

  Raises:
    ValueError, einops.EinopsError: a tensor has the wrong rank, or its size is
      not divisible by the number of heads.
  """
  flat = {}
  for ours, theirs in names.items():
    x = tensors[theirs]
    if theirs.startswith(_JOINED):
      part = ("query", "key", "value").index(ours.split("/")[-2])
      x = np.split(x, 3)[part]
    flat[ours] = _to_ours(ours, x, heads.get(ours.split("/")[0]))
  return flat


def with_convolution(
    tensors: Mapping[str, np.ndarray], patch: int
) -> dict[str, np.ndarray]:
  """Converts a Siglip2Model's tensors to a SiglipModel's.

  The dense layer that embeds patches becomes a convolution.

  Args:
    tensors: arrays by transformers' names.
    patch: side of a patch, pixels.

  Raises:
    einops.EinopsError: the dense layer's weights are not of patches this size.
  """
  name = f"{_PATCHES}.weight"
  kernel = einops.rearrange(
      tensors[name], "d (h w c) -> d c h w", h=patch, w=patch
  )
  return {**tensors, name: kernel}


def _layer(ours: str, theirs: str, leaves: Mapping[str, str]) -> dict[str, str]:
  return {f"{ours}/{a}": f"{theirs}.{b}" for a, b in leaves.items()}


def _mlp(ours: str, theirs: str) -> dict[str, str]:
  return _layer(
      f"{ours}/MlpBlock_0/Dense_0", f"{theirs}.mlp.fc1", _DENSE
  ) | _layer(f"{ours}/MlpBlock_0/Dense_1", f"{theirs}.mlp.fc2", _DENSE)


def _encoder(ours: str, theirs: str, depth: int) -> dict[str, str]:
  names = {}
  for i in range(depth):
    a, b = f"{ours}/encoderblock_{i}", f"{theirs}.encoder.layers.{i}"
    names |= _layer(f"{a}/LayerNorm_0", f"{b}.layer_norm1", _NORM)
    names |= _layer(f"{a}/LayerNorm_1", f"{b}.layer_norm2", _NORM)
    names |= _mlp(a, b)
    for part in ("query", "key", "value"):
      proj = f"{b}.self_attn.{part[0]}_proj"
      names |= _layer(f"{a}/{_ATTENTION}/{part}", proj, _DENSE)
    names |= _layer(f"{a}/{_ATTENTION}/out", f"{b}.self_attn.out_proj", _DENSE)
  return names


def _patterns(ours: str) -> tuple[str, str] | None:
  """Returns einops patterns of our layout and theirs, or None if the same."""
  if ours == "img/embedding/kernel":
    return "h w c d", "d c h w"
  if ours.endswith("pos_embedding"):
    return "1 l d", "l d"
  if _ATTENTION in ours:
    part, leaf = ours.split("/")[-2:]
    if leaf == "bias":
      return None if part == "out" else ("n h", "(n h)")
    return ("n h d", "d (n h)") if part == "out" else ("d n h", "(n h) d")
  return ("i o", "o i") if ours.endswith("/kernel") else None


def _to_theirs(ours: str, x: np.ndarray) -> np.ndarray:
  patterns = _patterns(ours)
  if patterns is None:
    return x
  return einops.rearrange(x, f"{patterns[0]} -> {patterns[1]}")


def _to_ours(ours: str, x: np.ndarray, heads: int | None) -> np.ndarray:
  patterns = _patterns(ours)
  if patterns is None:
    return x
  sizes = {"n": heads} if "n" in patterns[0].split() else {}
  return einops.rearrange(x, f"{patterns[1]} -> {patterns[0]}", **sizes)
