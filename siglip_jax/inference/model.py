"""A trained model to encode, compare and classify with."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Float
import numpy as np
from PIL import Image

from siglip_jax.data import images as images_lib
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError
from siglip_jax.evals import prompts
from siglip_jax.inference import encoder as encoder_lib
from siglip_jax.inference import export
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers


class SigLIP:
  """A trained model.

  Args:
    model: the towers.
    params: nested dict with big_vision's names, on the devices of `mesh`.
    mesh: mesh of devices to spread batches over.
    spec: preprocessing and sizes that the model was trained with: `image`,
      `text`, `image_size`, `text_len`; of a run also `step`.
    text: preprocessing of texts, or None without a tokenizer.
    batch_size: largest number of images or texts to encode at a time.
  """

  def __init__(
      self,
      *,
      model: TwoTowers,
      params: dict,
      mesh: jax.sharding.Mesh,
      spec: Mapping[str, Any],
      text: Preprocess | None,
      batch_size: int,
  ):
    self.model, self.params, self.spec = model, params, spec
    self._preprocess = Preprocess(spec["image"])
    self._has_tokenizer = text is not None
    self._encoder = encoder_lib.BatchEncoder(
        model=model,
        params=params,
        mesh=mesh,
        image=self._preprocess,
        text=text,
        batch_size=batch_size,
    )

  def encode_image(self, images) -> Float[np.ndarray, "B D"]:
    """Returns L2-normalised embeddings of images.

    Images are read and resized in threads while the devices compute.

    Args:
      images: list of paths, PIL images or uint8 arrays (H, W, 3), in any mix;
        or one float array (B, H, W, 3) of preprocessed images at the model's
        size.

    Raises:
      UserError: `images` is not a list, an image cannot be read, or the outputs
        are not finite.
    """
    if isinstance(images, (str, Path, Image.Image)):
      raise UserError(
          f"encode_image takes a list of images; got {images!r}. Put it in"
          " [brackets]."
      )
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
      return _finite(self._encoder.encode_images(self._preprocessed(images)))
    if isinstance(images, np.ndarray) and images.ndim != 4:
      raise UserError(
          "An array of images must have shape (B, H, W, 3); got"
          f" {images.shape}. Put a single image in [brackets]."
      )
    images = list(images)
    if not images:
      raise UserError("encode_image needs at least one image; got none.")
    _load_repeated(images)
    return _finite(self._encoder.encode_images(images, self._pixels))

  def encode_text(self, texts) -> Float[np.ndarray, "B D"]:
    """Returns L2-normalised embeddings of texts.

    Args:
      texts: list of strings, or array (B, text_len) of token ids.

    Raises:
      UserError: `texts` is neither, strings are given without a tokenizer, or
        the outputs are not finite.
    """
    if isinstance(texts, np.ndarray) and texts.dtype.kind in "iu":
      return _finite(self._encoder.encode_ids(self._ids(texts)))
    if isinstance(texts, str) or not len(texts):
      raise UserError(
          f"encode_text takes a list of at least one string; got {texts!r}."
      )
    wrong = [t for t in texts if not _is_text(t)]
    if wrong:
      raise UserError(
          f"encode_text takes strings of Unicode characters; got {wrong[0]!r}."
      )
    if not self._has_tokenizer:
      raise UserError(self._no_tokenizer())
    return _finite(self._encoder.encode_texts(list(texts)))

  def similarity(self, images, texts) -> Float[np.ndarray, "B N"]:
    """Returns the probability that each image and each text belong together.

    Each pair is a separate yes or no question, so a row need not sum to one.
    The probability is the sigmoid of the model's logits, with the temperature
    and bias that it learned.

    Args:
      images: as for `encode_image`.
      texts: as for `encode_text`.
    """
    # Encode texts first, so that errors in them appear sooner.
    ztxt = self.encode_text(texts)
    return self.probabilities(self.encode_image(images), ztxt)

  def classify(
      self,
      images,
      labels: Sequence[str],
      *,
      templates: Sequence[str] = prompts.NAME,
  ) -> Float[np.ndarray, "B C"]:
    """Returns the probability that each image and each label belong together.

    Args:
      images: as for `encode_image`.
      labels: names of classes.
      templates: sentences with {} in place of the name. A class's embedding is
        the mean of its sentences' normalised embeddings, normalised again.
    """
    if isinstance(labels, str) or not len(labels):
      raise UserError(f"Labels are a list of strings; got {labels!r}.")
    prompts.check(templates, "classify")
    zcls = prompts.ensemble(self.encode_text, list(labels), templates)
    return self.probabilities(self.encode_image(images), zcls)

  def probabilities(
      self, zimg: Float[np.ndarray, "B D"], ztxt: Float[np.ndarray, "N D"]
  ) -> Float[np.ndarray, "B N"]:
    """Returns the `similarity` of images and texts, given their embeddings."""
    # Float64, because exp(t) may exceed a hundred and is not clamped.
    cosine = (zimg @ ztxt.T).astype(np.float64)
    logits = self._encoder.temperature * cosine + self._encoder.bias
    return np.exp(-np.logaddexp(0, -_finite(logits))).astype(np.float32)

  def export_image(self, path: str | Path) -> None:
    """Writes the image tower as StableHLO; see `export.write`."""
    side, value_range = self.spec["image_size"], self._preprocess.value_range
    assert value_range is not None
    export.write(
        path,
        encoder_lib.image_function(_portable(self.model), value_range),
        {"img": self.params["img"]},
        jax.ShapeDtypeStruct((side, side, 3), np.uint8),
        self._about("image"),
    )

  def export_text(self, path: str | Path) -> None:
    """Writes the text tower as StableHLO; see `export.write`."""
    export.write(
        path,
        _portable(self.model).encode_text,
        {"txt": self.params["txt"]},
        jax.ShapeDtypeStruct((self.spec["text_len"],), np.int32),
        self._about("text"),
    )

  def _about(self, input_name: str) -> dict[str, Any]:
    about = {
        "preprocessing": self.spec[input_name],
        "temperature": self._encoder.temperature,
        "bias": self._encoder.bias,
    }
    return about | {k: self.spec[k] for k in ("step",) if k in self.spec}

  def _no_tokenizer(self) -> str:
    # Identify the model only for this message, since that traces it.
    variant = zoo.identify(self.params)
    published = f" of a copy of {variant.tokenizer_places}" if variant else ""
    return (
        "This model was loaded without a tokenizer, which texts need: give"
        f" load tokenizer=PATH{published}, or copy it into the folder of the"
        " weights."
    )

  def _preprocessed(self, images: np.ndarray) -> np.ndarray:
    side = self.spec["image_size"]
    if images.shape[1:] != (side, side, 3) or not len(images):
      raise UserError(
          f"Float images must have shape (B, {side}, {side}, 3); got"
          f" {images.shape}."
      )
    return images.astype(np.float32, copy=False)

  def _ids(self, ids: np.ndarray) -> np.ndarray:
    length, rows = self.spec["text_len"], _vocab_size(self.params)
    if ids.ndim != 2 or ids.shape[1] != length or not len(ids):
      raise UserError(
          f"Token ids must have shape (B, {length}); got {ids.shape}."
      )
    if ids.min() < 0 or ids.max() >= rows:
      raise UserError(
          f"Token ids must be in [0, {rows}); got {ids.min()} to {ids.max()}."
          " They are another tokenizer's."
      )
    return ids.astype(np.int32)

  def _pixels(self, image) -> np.ndarray:
    data, name = _opened(image)
    try:
      return self._preprocess({"image": data}, np.random.default_rng(0))[
          "image"
      ]
    except images_lib.ImageError as e:
      raise UserError(
          f"{name} cannot be read as an image: {e}. Leave it out, or give"
          " another."
      ) from None


def _finite(outputs: np.ndarray) -> np.ndarray:
  if not np.isfinite(outputs).all():
    raise UserError(
        "The model's outputs must be finite; some are not. Its weights, or the"
        " floats it was given, are damaged, or float16 holds no numbers so"
        " large: load it with dtype='float32', or from another copy."
    )
  return outputs


def _opened(image) -> tuple[bytes | Image.Image, str]:
  """Returns an image in a form that `decode` takes, and its name for errors."""
  if isinstance(image, (str, Path)):
    try:
      return Path(image).read_bytes(), str(image)
    except IsADirectoryError:
      raise UserError(
          f"{image} is a folder, and an image is a file: give the paths of its"
          f" images, which a shell lists for {image}/*.jpg."
      ) from None
    except (FileNotFoundError, NotADirectoryError):
      raise UserError(
          f"There is no image {image}: give the path of one."
      ) from None
    except (OSError, ValueError) as e:  # a null byte in the name is the latter
      raise UserError(f"{str(image)[:200]!r} cannot be read: {e}.") from None
  if isinstance(image, Image.Image):
    return image, str(getattr(image, "filename", "") or "The given image")
  array = np.asarray(image)
  if (
      array.dtype != np.uint8
      or array.ndim < 2
      or array.shape[2:] not in ((), (3,))
  ):
    raise UserError(
        "An image is a path, a PIL image or a uint8 array of shape (H, W, 3)"
        f" or (H, W); got {type(image).__name__} of {array.dtype}"
        f" {array.shape}."
    )
  return Image.fromarray(array), "The given array"


def _load_repeated(images: Sequence) -> None:
  """Reads PIL images that repeat: two threads must not read one at once."""
  counts = collections.Counter(map(id, images))
  for image in images:
    if counts[id(image)] > 1 and isinstance(image, Image.Image):
      try:
        image.load()
      except (OSError, ValueError, SyntaxError):
        pass  # `decode` fails again, and reports which image it is


def _portable(model: TwoTowers) -> TwoTowers:
  """Returns the model without kernels that only some devices have."""
  return dataclasses.replace(model, attention="xla")


def _vocab_size(params: Mapping) -> int:
  return len(params["txt"]["Embed_0"]["embedding"])


def _is_text(text) -> bool:
  """Whether a value is a string without unpaired surrogates."""
  try:
    return isinstance(text, str) and text.encode() is not None
  except UnicodeEncodeError:
    return False
