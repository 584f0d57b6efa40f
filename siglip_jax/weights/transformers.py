"""Folders of transformers: config.json and model.safetensors.

A SiglipModel can be read and written. A Siglip2Model can only be read, at its
square grid.
"""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import json
import os
from pathlib import Path
from typing import Any
import zlib

from absl import logging
import einops
import jax
import numpy as np
import safetensors
import safetensors.numpy

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import big_vision
from siglip_jax.weights import hf_config
from siglip_jax.weights import hf_json
from siglip_jax.weights import hf_names
from siglip_jax.weights import hf_processor
from siglip_jax.weights import layouts

_CHECKSUM = "siglip_jax_crc32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
  """A model that was read from a folder.

  Attributes:
    params: nested dict of float32 arrays with big_vision's names, blocks
      unrolled.
    model: keyword arguments of `TwoTowers`.
    image_size: side of the images, pixels.
    text_len: length of a text, tokens.
    image: preprocessing string of images.
    text: preprocessing string of texts, for `tokenizer_path=tokenizer`.
    tokenizer: path of the tokenizer's file, or None if the folder has none.
    naflex: whether this is a Siglip2Model; only the NaFlex models are released
      as one.
  """

  params: dict
  model: dict[str, Any]
  image_size: int
  text_len: int
  image: str
  text: str
  tokenizer: Path | None
  naflex: bool


def is_folder(folder: str | os.PathLike) -> bool:
  """Whether a folder has a config.json of transformers, or weights alone."""
  folder = Path(folder)
  path = folder / "config.json"
  if not path.is_file():
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
  try:
    return "model_type" in json.loads(path.read_bytes())
  except (ValueError, TypeError, RecursionError):
    return any(folder.glob("*.safetensors"))


def read(
    folder: str | os.PathLike, *, variant: zoo.Variant | None = None
) -> Folder:
  """Reads a folder that save_pretrained wrote.

  In transformers a Siglip2Model also takes images of other shapes and sizes.
  Here its images are squares with as many patches as it has positions. For
  these squares both give the same result.

  Args:
    folder: path of the folder.
    variant: released model that the weights must be.

  Raises:
    UserError: the folder is missing, holds another kind of model or not the
      released one, or is damaged.
  """
  folder = Path(folder).expanduser()
  if not folder.exists():
    raise UserError(f"There is no {folder}: expected a folder of transformers.")
  if not folder.is_dir():
    raise UserError(f"{folder} is a file: expected a folder of transformers.")
  config = hf_config.read(folder)
  if variant is not None and config.siglip2:
    raise UserError(
        f"{folder} is a Siglip2Model, as only the NaFlex models are released,"
        f" and not {variant.name}: use the folder without that name."
    )
  model = hf_config.model(config)
  processor = hf_processor.read(folder, config)
  sections = {"img": config.vision, "txt": config.text}
  names = hf_names.pairs(*(x["num_hidden_layers"] for x in sections.values()))
  side = config.image_size
  with futures.ThreadPoolExecutor(1) as pool:
    # The model is traced while the weights are read.
    tracing = pool.submit(_shapes, model, side, config.text_len)
    tensors = _tensors(folder, set(names.values()))
  heads = {key: x["num_attention_heads"] for key, x in sections.items()}
  try:
    if config.siglip2:
      tensors = hf_names.with_convolution(tensors, config.vision["patch_size"])
    flat = hf_names.to_ours(tensors, names, heads=heads)
  except (ValueError, einops.EinopsError) as e:
    raise UserError(
        f"The tensors of {folder} do not have the shapes its config.json says:"
        f" {str(e).splitlines()[-1].strip()}."
    ) from None
  for name, shape in tracing.result().items():
    if flat[name].shape != shape:
      raise UserError(
          f"The tensors of {folder} must have the shapes its config.json says:"
          f" {name} {shape}; got {flat[name].shape}."
      )
  params = tree.unflatten(flat)
  if variant is not None:
    variant.check(params)
  if config.siglip2:
    logging.warning(
        "%s is a Siglip2Model, taken at its own %d positions: images are"
        " resized to %d x %d, whatever their shape.",
        *(folder, config.num_positions, side, side),
    )
  return Folder(
      params=params,
      model=model,
      image_size=side,
      text_len=config.text_len,
      image=processor.image,
      text=processor.text,
      tokenizer=processor.tokenizer,
      naflex=config.siglip2,
  )


def write(
    folder: str | os.PathLike,
    params: Mapping,
    *,
    image_size: int,
    pad_id: int = 1,
    eos_id: int = 1,
) -> None:
  """Writes config.json and model.safetensors into a folder.

  Args:
    folder: path of the folder, created if it is missing.
    params: nested dict of a whole model, in either layout.
    image_size: side of the images, pixels.
    pad_id: id that pads texts.
    eos_id: id that ends texts.

  Raises:
    UserError: the model cannot be expressed as a SiglipModel.
  """
  folder = Path(folder)
  flat = tree.flatten(layouts.unrolled(jax.device_get(params)))
  config = hf_config.of_params(flat, image_size)
  config["text_config"] |= {
      "pad_token_id": pad_id,
      "eos_token_id": eos_id,
      "bos_token_id": None,  # the default is not an id of these vocabularies
  }
  depth = [config[k]["num_hidden_layers"] for k in hf_config.SECTIONS]
  tensors = {
      name: np.ascontiguousarray(x, np.float32)
      for name, x in hf_names.to_theirs(flat, hf_names.pairs(*depth)).items()
  }
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "model.safetensors"
  # Older versions of transformers refuse files that do not state a format.
  about = {"format": "pt", _CHECKSUM: _checksum(tensors)}
  safetensors.numpy.save_file(tensors, path, metadata=about)
  _sort_metadata(path)
  text = folder / "config.json"
  text.write_text(json.dumps(config, indent=2) + "\n")
  path.chmod(text.stat().st_mode)  # the library makes it private


def _sort_metadata(path: Path) -> None:
  """Sorts a header's metadata, so that the same model gives the same file.

  The library writes the metadata in any order.

  Args:
    path: safetensors file: 8 bytes with the header's length, then the header as
      JSON.
  """
  with path.open("r+b") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    data = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(data) == length, "sorting keeps the length"
    file.seek(8)
    file.write(data)


def _tensors(folder: Path, expected: set[str]) -> dict[str, np.ndarray]:
  """Returns all tensors of a folder by name, as float32.

  Args:
    folder: path of the folder.
    expected: names of the model's tensors.

  Raises:
    UserError: a file is damaged, or the tensors are not the expected ones.
  """
  tensors: dict[str, np.ndarray] = {}
  for path in _files(folder):
    try:
      with safetensors.safe_open(path, "np") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as e:
      raise UserError(
          f"{path} is damaged or incomplete: {e}. Copy it again."
      ) from None
    except AttributeError as e:  # NumPy lacks types that the format has
      raise UserError(
          f"{path}: weights must be float32, float16 or bfloat16; {e}."
      ) from None
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(stored):
      raise UserError(
          f"{path} is damaged: its tensors are not those that were written."
          " Copy it again."
      )
    for name, x in stored.items():
      # Old versions of transformers saved position ids (0, 1, 2, ...).
      if not name.endswith(".position_ids"):
        tensors[name] = big_vision.float32(x, name=name, path=path)
  missing = sorted(expected - tensors.keys())
  extra = sorted(tensors.keys() - expected)
  if missing or extra:
    raise UserError(
        f"The tensors of {folder} must be those of the model and with the"
        f" layers that config.json says; {len(missing)} are missing"
        f" ({', '.join(missing[:2])}), {len(extra)} are unknown"
        f" ({', '.join(extra[:2])})."
    )
  return tensors


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
  """Returns a checksum of names and values, for the metadata.

  The safetensors format has none of its own.
  """

  def crc32(name: str) -> int:
    # Viewed as bytes: bfloat16 arrays do not support the buffer protocol.
    data = tensors[name].reshape(-1).view(np.uint8).data
    return zlib.crc32(data, zlib.crc32(name.encode()))

  with futures.ThreadPoolExecutor() as pool:
    checksums = list(pool.map(crc32, sorted(tensors)))
  return f"{zlib.crc32(np.array(checksums, '<u4').tobytes()):08x}"


def _files(folder: Path) -> list[Path]:
  single, index = (
      folder / f"model.safetensors{end}" for end in ("", ".index.json")
  )
  if single.is_file():
    return [single]
  if index.is_file():
    weight_map = hf_json.read(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(f, str) and Path(f).name == f and f.strip(".")
        for f in weight_map.values()
    ):
      raise UserError(f"{index} must map tensors to files beside it.")
    paths = [folder / name for name in sorted(set(weight_map.values()))]
    missing = [p for p in paths if not p.is_file()]
    if missing:
      raise UserError(f"{index} names {missing[0]}, which is not there.")
    return paths
  if pickles := sorted(folder.glob("*.bin")):
    raise UserError(
        f"{folder} has its weights in {pickles[0].name}, a pickle, which could"
        " run any code and is not opened: convert it with"
        " save_pretrained(..., safe_serialization=True)."
    )
  raise UserError(
      f"There is no model.safetensors in {folder}: copy it there from where the"
      " model is published."
  )


def _shapes(model: Mapping, side: int, length: int) -> dict[str, tuple]:
  """Returns the shapes of TwoTowers(**model)'s parameters, blocks unrolled."""
  shapes = TwoTowers(**model, scan=True).shapes((side, side, 3), length)
  flat = tree.flatten(layouts.unrolled(shapes))
  return {name: x.shape for name, x in flat.items()}
