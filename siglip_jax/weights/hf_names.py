"""Names and layouts of a SiglipModel's tensors beside big_vision's.

PyTorch keeps a dense layer's weights as (out, in), heads side by side, and an
image's channels before its rows; the pooling head has query, key and value in
one tensor.
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
  """big_vision's name -> transformers' name, blocks unrolled.

  The pooling head's query, key and value all go to `in_proj_*`.
  """
  found = {
      "t": "logit_scale",
      "b": "logit_bias",
      "img/pos_embedding": "vision_model.embeddings.position_embedding.weight",
      "txt/pos_embedding": "text_model.embeddings.position_embedding.weight",
      "txt/Embed_0/embedding": "text_model.embeddings.token_embedding.weight",
      f"{_HEAD}/probe": "vision_model.head.probe",
  }
  found |= _layer("img/embedding", _PATCHES, _DENSE)
  found |= _encoder("img/Transformer", "vision_model", image_depth)
  found |= _encoder("txt/Encoder_0", "text_model", text_depth)
  found |= _layer(
      "img/Transformer/encoder_norm", "vision_model.post_layernorm", _NORM
  )
  found |= _layer(
      "txt/Encoder_0/encoder_norm", "text_model.final_layer_norm", _NORM
  )
  found |= _layer(f"{_HEAD}/LayerNorm_0", "vision_model.head.layernorm", _NORM)
  found |= _mlp(_HEAD, "vision_model.head")
  out = "vision_model.head.attention.out_proj"
  found |= _layer(f"{_HEAD}/{_ATTENTION}/out", out, _DENSE)
  for part in ("query", "key", "value"):
    for ours, theirs in _DENSE.items():
      found[f"{_HEAD}/{_ATTENTION}/{part}/{ours}"] = f"{_JOINED}_{theirs}"
  found |= _layer("txt/head", "text_model.head", _DENSE)
  return found


def to_theirs(flat: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict:
  """Parameters by big_vision's names as tensors by transformers'."""
  found: dict = {}
  for ours, theirs in names.items():
    if theirs.startswith(_JOINED):
      # In the order of `pairs`: query, key, value.
      found.setdefault(theirs, []).append(_to_theirs(ours, flat[ours]))
    else:
      found[theirs] = _to_theirs(ours, flat[ours])
  return {
      name: np.concatenate(x) if isinstance(x, list) else x
      for name, x in found.items()
  }


def to_ours(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, heads: dict
) -> dict[str, np.ndarray]:
  """The inverse of `to_theirs`.

  Args:
    tensors: by transformers' names.
    names: of `pairs`.
    heads: number of heads of "img" and of "txt".

  Raises:
    ValueError, einops.EinopsError: a tensor of the wrong rank, or heads that
      do not divide it.
  """
  found = {}
  for ours, theirs in names.items():
    x = tensors[theirs]
    if theirs.startswith(_JOINED):
      part = ("query", "key", "value").index(ours.split("/")[-2])
      x = np.split(x, 3)[part]
    found[ours] = _to_ours(ours, x, heads.get(ours.split("/")[0]))
  return found


def with_convolution(
    tensors: Mapping[str, np.ndarray], patch: int
) -> dict[str, np.ndarray]:
  """A Siglip2Model's tensors as a SiglipModel's.

  Args:
    tensors: by transformers' names.
    patch: side of a patch, pixels.

  Raises:
    einops.EinopsError: the weights of its dense layer do not divide so.
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
  found = {}
  for i in range(depth):
    a, b = f"{ours}/encoderblock_{i}", f"{theirs}.encoder.layers.{i}"
    found |= _layer(f"{a}/LayerNorm_0", f"{b}.layer_norm1", _NORM)
    found |= _layer(f"{a}/LayerNorm_1", f"{b}.layer_norm2", _NORM)
    found |= _mlp(a, b)
    for part in ("query", "key", "value"):
      proj = f"{b}.self_attn.{part[0]}_proj"
      found |= _layer(f"{a}/{_ATTENTION}/{part}", proj, _DENSE)
    found |= _layer(f"{a}/{_ATTENTION}/out", f"{b}.self_attn.out_proj", _DENSE)
  return found


def _patterns(ours: str) -> tuple[str, str] | None:
  """einops patterns of our layout and theirs, where they differ."""
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
