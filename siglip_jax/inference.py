"""`load(workdir)`: a trained model to encode and classify with."""

from collections.abc import Mapping
from collections.abc import Sequence
import io
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Float
import numpy as np
from PIL import Image

from siglip_jax import checkpoint
from siglip_jax import config as config_lib
from siglip_jax import predict
from siglip_jax import sharding
from siglip_jax.data import images as images_lib
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers


class SigLIP:
  """A trained model.

  Args:
    encoder: towers, parameters and preprocessing.
    params: nested dict with big_vision's names.
    spec: preprocessing, tokenizer digest and sizes, as trained.
  """

  def __init__(
      self, encoder: predict.Encoder, params: dict, spec: Mapping[str, Any]
  ):
    self._encoder, self.params, self.spec = encoder, params, spec
    self._preprocess = Preprocess(spec["image"])

  def encode_image(self, images) -> Float[np.ndarray, "B D"]:
    """L2-normalised embeddings.

    Args:
      images: paths, PIL images or uint8 arrays (H, W, 3) in any mix; or one
        float array (B, H, W, 3) at the model's size, taken as preprocessed.

    Raises:
      UserError: a picture that cannot be read, or an empty list.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
      side = self.spec["image_size"]
      if images.shape[1:] != (side, side, 3):
        raise UserError(
            f"Float pictures must have shape (B, {side}, {side}, 3); got"
            f" {images.shape}."
        )
      return self._encoder.encode_images(images.astype(np.float32))
    if not len(images):
      raise UserError("encode_image needs at least one picture; got none.")
    return self._encoder.encode_images([self._pixels(i) for i in images])

  def encode_text(self, texts) -> Float[np.ndarray, "B D"]:
    """L2-normalised embeddings of a list of strings or an array of ids."""
    if isinstance(texts, np.ndarray):
      return self._encoder.encode_ids(texts)
    if isinstance(texts, str) or not len(texts):
      raise UserError(
          f"encode_text takes a list of at least one string; got {texts!r}."
      )
    return self._encoder.encode_texts(texts)

  def classify(self, images, labels: Sequence[str]) -> Float[np.ndarray, "B C"]:
    """Probability that a picture and a label belong together.

    Each pair is its own yes or no, so a row need not sum to one.
    """
    cosine = self.encode_image(images) @ self.encode_text(labels).T
    logits = self._encoder.temperature * cosine + self._encoder.bias
    return 1 / (1 + np.exp(-logits))

  def _pixels(self, image) -> np.ndarray:
    rng = np.random.default_rng(0)
    if isinstance(image, (str, Path)):
      if not Path(image).is_file():
        raise UserError(f"There is no picture {image}.")
      data = Path(image).read_bytes()
      name = str(image)
    else:
      data, name = _as_png(image), "the given array"
    try:
      return self._preprocess({"image": data}, rng)["image"]
    except images_lib.ImageError as e:
      raise UserError(f"{name} cannot be read as a picture: {e}") from None


def load(path: str | Path, *, batch_size: int = 64) -> SigLIP:
  """Loads the newest checkpoint of a workdir.

  Args:
    path: the --workdir of a run.
    batch_size: pictures or texts encoded at a time.

  Raises:
    UserError: no run, no whole checkpoint, or another tokenizer than it was
      trained with.
  """
  workdir = Path(path).expanduser()
  config = config_lib.read(workdir)
  mesh = sharding.make_mesh()
  model = TwoTowers(**config.model.to_dict())
  side = config.image_size
  shapes = jax.eval_shape(
      lambda key: model.init(key, (side, side, 3), config.text_len),
      jax.random.key(0),
  )
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.replicated(mesh)
      ),
      shapes,
  )
  checkpoints = checkpoint.Checkpoints(workdir, keep=config.ckpt.keep)
  params, spec, _ = checkpoints.restore_params(shapes)
  checkpoints.close()
  text = Preprocess(spec["text"], tokenizer_path=workdir / "tokenizer.model")
  assert text.tokenizer is not None, "no run starts without"
  if text.tokenizer.digest != spec["tokenizer_digest"]:
    raise UserError(
        f"{workdir / 'tokenizer.model'} is not the tokenizer the weights were"
        f" trained with: sha256 {spec['tokenizer_digest'][:12]}..., got"
        f" {text.tokenizer.digest[:12]}.... Restore the file."
    )
  encoder = predict.Encoder(
      model=model,
      params=params,
      mesh=mesh,
      text=text,
      image=Preprocess(spec["image"]),
      batch_size=batch_size,
  )
  return SigLIP(encoder, params, spec)


def _as_png(image) -> bytes:
  """Pictures and arrays take the way of files, so they meet the same steps."""
  if isinstance(image, np.ndarray):
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
      raise UserError(
          "A picture array must be uint8 of shape (H, W, 3); got"
          f" {image.dtype} {image.shape}."
      )
    image = Image.fromarray(image)
  out = io.BytesIO()
  image.save(out, format="png", compress_level=0)
  return out.getvalue()
