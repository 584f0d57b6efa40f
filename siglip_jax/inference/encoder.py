"""Embeddings of images and texts, sharded over the devices of a mesh."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax import sharding
from siglip_jax.data import prefetch
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.models import two_towers
from siglip_jax.models.two_towers import TwoTowers


class BatchEncoder:
  """Encodes with fixed parameters, in batches of a few shapes.

  Compiled are as many programs as there are shapes met: `batch_size`, and for
  fewer examples than that its halves, down to one a device.

  Args:
    model: the towers.
    params: their parameters, on the mesh.
    mesh: the mesh to spread batches over.
    image: preprocessing of images, ending in value_range.
    text: preprocessing of texts, ending in tokenize; None for ids alone.
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
      text: Preprocess | None,
      batch_size: int,
      track: Callable[[Iterable, int], Iterable] = lambda batches, _: batches,
  ):
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    self._batch_size = -(-batch_size // devices) * devices
    self._sizes = batch_sizes(batch_size, devices)
    # Those of the mesh, which need not be all that there are.
    self._processes = sorted({d.process_index for d in mesh.devices.flat})
    self._mine = self._processes.index(jax.process_index())
    assert image.value_range is not None, image.spec
    self._params, self._image, self._text = params, image, text
    self._track = track
    self._sharding = sharding.batch_sharding(mesh)
    self._encode_image = jax.jit(
        sharding.on_mesh(mesh, image_function(model, image.value_range)),
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
    """Embeddings of a source's images, in its order, on every process."""
    if isinstance(source, Embeddings):
      return source.every()
    # Only evaluations need Grain; who encodes an image does not wait for it.
    from siglip_jax.data import pipeline

    found = []
    batches = pipeline.eval_batches(
        source,
        self._image,
        batch_size=self._batch_size,
        process_index=self._mine,
        process_count=len(self._processes),
    )
    for batch in self._track(batches, -(-len(source) // self._batch_size)):
      z = self._fetch(
          self._encode_image(self._params, self._put(batch["image"]))
      )
      found.append(z[self._fetch(self._put(batch["mask"]))])
    return np.concatenate(found)

  def encode_images(
      self,
      images: Sequence | np.ndarray,
      load: Callable[[Any], np.ndarray] = np.asarray,
  ) -> Float[np.ndarray, "N D"]:
    """Embeddings of images.

    Args:
      images: anything that `load` makes preprocessed uint8 images of, or
        floats, which are taken as scaled.
      load: called in threads, a batch ahead of the devices.
    """
    size = self._size(len(images))
    batches = prefetch.batches(load, images, size)
    return self._in_batches(self._encode_image, batches, len(images))

  def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Embeddings of strings."""
    assert self._text is not None, "an encoder of ids"
    rng = np.random.default_rng(0)
    ids = [self._text({"text": t}, rng)["text"] for t in texts]
    return self.encode_ids(np.stack(ids))

  def encode_ids(self, ids: Int[np.ndarray, "N L"]) -> Float[np.ndarray, "N D"]:
    """Embeddings of token ids."""
    size = self._size(len(ids))
    batches = (ids[i : i + size] for i in range(0, len(ids), size))
    return self._in_batches(self._encode_text, batches, len(ids))

  def _size(self, count: int) -> int:
    """The smallest batch that holds `count` examples, or the largest of all."""
    return next((s for s in self._sizes if s >= count), self._batch_size)

  def _in_batches(
      self, encode, batches: Iterable[np.ndarray], count: int
  ) -> Float[np.ndarray, "N D"]:
    """Fetches a batch only when the next one is on its way."""
    size = self._size(count)
    found, waiting = [], None
    for batch in self._track(batches, -(-count // size)):
      z = encode(self._params, self._put(self._my_rows(batch, size)))
      if waiting is not None:
        found.append(self._fetch(waiting))
      waiting = z
    found.append(self._fetch(waiting))
    return np.concatenate(found)[:count]

  def _my_rows(self, batch: np.ndarray, size: int) -> np.ndarray:
    """This process's part of a batch padded to `size`."""
    local = size // len(self._processes)
    if len(batch) < size:  # or it would be copied for nothing
      pad = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
      batch = np.pad(batch, pad)
    return batch[self._mine * local :][:local]

  def _put(self, local: np.ndarray) -> jax.Array:
    """The whole batch on the devices, of every process's part."""
    return jax.make_array_from_process_local_data(self._sharding, local)

  def _fetch(self, x) -> np.ndarray:
    """The whole of an array, on every process."""
    if len(self._processes) > 1:
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(jax.device_get(x))


def batch_sizes(largest: int, devices: int) -> list[int]:
  """Batches that divide over the devices: `largest`, rounded up, and halves.

  From the smallest: one example a device.
  """
  sizes = [-(-largest // devices)]
  while sizes[0] > 1:
    sizes.insert(0, -(-sizes[0] // 2))
  return [s * devices for s in sizes]


def image_function(
    model: TwoTowers, value_range: tuple[float, float]
) -> Callable[[dict, jax.Array], jax.Array]:
  """Parameters and bytes, or scaled floats, to embeddings."""

  def encode(params, images):
    if images.dtype == np.uint8:
      images = two_towers.scale(images, value_range)
    return model.encode_image(params, images)

  return encode
