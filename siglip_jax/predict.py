"""Embeddings of pictures and texts, sharded over the devices of a mesh."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax import sharding
from siglip_jax import step as step_lib
from siglip_jax.data import pipeline
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.models.two_towers import TwoTowers


class Encoder:
  """Encodes with fixed parameters, in batches of one shape.

  Args:
    model: the towers.
    params: their parameters, on the mesh.
    mesh: the mesh to spread batches over.
    image: preprocessing of pictures, ending in value_range.
    text: preprocessing of texts, ending in tokenize.
    batch_size: examples at a time over all devices.
    track: called with batches and how many there are, returns the batches;
      for a progress bar.
  """

  def __init__(
      self,
      *,
      model: TwoTowers,
      params: dict,
      mesh: jax.sharding.Mesh,
      image: Preprocess,
      text: Preprocess,
      batch_size: int,
      track: Callable[[Iterable, int], Iterable] = lambda batches, _: batches,
  ):
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    self._batch_size = -(-batch_size // devices) * devices
    assert image.value_range is not None, image.spec
    self._params, self._image, self._text = params, image, text
    self._track = track
    self._sharding = sharding.batch_sharding(mesh)
    self._encode_image = jax.jit(
        sharding.on_mesh(mesh, _image_fn(model, image.value_range)),
        out_shardings=self._sharding,
    )
    self._encode_text = jax.jit(
        sharding.on_mesh(mesh, model.encode_text),
        out_shardings=self._sharding,
    )

  def replace_params(self, params: dict) -> None:
    """Encodes with these from now on; nothing is compiled again."""
    self._params = params

  @property
  def temperature(self) -> float:
    """exp(t')."""
    return float(np.exp(jax.device_get(self._params["t"])[0]))

  @property
  def bias(self) -> float:
    """The bias of the logits; 0 for a model without."""
    return (
        float(jax.device_get(self._params["b"])[0])
        if ("b" in self._params)
        else 0.0
    )

  def encode_source(self, source) -> Float[np.ndarray, "N D"]:
    """Embeddings of a source's pictures, in its order, on every process."""
    found = []
    batches = pipeline.eval_batches(
        source,
        self._image,
        batch_size=self._batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in self._track(batches, -(-len(source) // self._batch_size)):
      z = self._run(self._encode_image, batch["image"])
      mask = self._run(None, batch["mask"])
      found.append(z[mask])
    return np.concatenate(found)

  def encode_images(
      self, images: Sequence[np.ndarray] | np.ndarray
  ) -> Float[np.ndarray, "N D"]:
    """Embeddings of preprocessed uint8 pictures; floats are taken as scaled."""
    return self._in_batches(self._encode_image, np.asarray(images))

  def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Embeddings of strings."""
    rng = np.random.default_rng(0)
    ids = [self._text({"text": t}, rng)["text"] for t in texts]
    return self.encode_ids(np.stack(ids))

  def encode_ids(self, ids: Int[np.ndarray, "N L"]) -> Float[np.ndarray, "N D"]:
    """Embeddings of token ids."""
    return self._in_batches(self._encode_text, ids)

  def _in_batches(self, encode, x: np.ndarray) -> Float[np.ndarray, "N D"]:
    found = []
    local = self._batch_size // jax.process_count()
    starts = range(0, len(x), self._batch_size)
    for i in self._track(starts, len(starts)):
      part = x[i : i + self._batch_size]
      pad = [(0, self._batch_size - len(part))] + [(0, 0)] * (x.ndim - 1)
      mine = np.pad(part, pad)[jax.process_index() * local :][:local]
      found.append(self._run(encode, mine)[: len(part)])
    return np.concatenate(found)

  def _run(self, encode, local: np.ndarray) -> np.ndarray:
    """A local part of a batch to the whole batch's result, on every process."""
    x = jax.make_array_from_process_local_data(self._sharding, local)
    z = encode(self._params, x) if encode else x
    if jax.process_count() > 1:
      return np.asarray(multihost_utils.process_allgather(z, tiled=True))
    return np.asarray(jax.device_get(z))


def _image_fn(model: TwoTowers, value_range: tuple[float, float]):
  def encode(params, images):
    if images.dtype == np.uint8:
      images = step_lib.scale(images, value_range)
    return model.encode_image(params, images)

  return encode
