"""Encoding of images and texts, sharded over the devices of a mesh."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax import sharding
from siglip_jax.data import prefetch
from siglip_jax.data import sources
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.models import two_towers
from siglip_jax.models.two_towers import TwoTowers

# The cache is for epochs.
_LOADER = ("num_threads", "num_workers", "prefetch")


class BatchEncoder:
  """An encoder of images and texts, in batches of a few shapes.

  Compiles one program per batch shape: `batch_size` and its halves, down to one
  example per device.

  Args:
    model: the towers.
    params: parameters of the towers, on the mesh.
    mesh: mesh to spread batches over.
    image: preprocessing of images, ending in value_range.
    text: preprocessing of texts, ending in tokenize; None to encode only ids.
    batch_size: number of examples per batch, over all devices.
    loader: how `encode_source` reads: `num_threads`, `num_workers` and
      `prefetch`, as of `pipeline.eval_batches`. Other keys of config.data's
      loader are ignored.
    track: wrapper of batches, for a progress bar: called with the batches and
      their number, it returns the batches.
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
      loader: Mapping[str, int] | None = None,
      track: Callable[[Iterable, int], Iterable] = lambda batches, _: batches,
  ):
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    self._batch_size = -(-batch_size // devices) * devices
    self._sizes = batch_sizes(batch_size, devices)
    # The processes of the mesh, which may be fewer than the job has.
    self._processes = sorted({d.process_index for d in mesh.devices.flat})
    self._mine = self._processes.index(jax.process_index())
    assert image.value_range is not None, image.spec
    self._params, self._image, self._text = params, image, text
    self._loader = {k: v for k, v in (loader or {}).items() if k in _LOADER}
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
    """Encodes with `params` from now on, without compiling again."""
    self._params = params

  @property
  def temperature(self) -> float:
    """The temperature of the logits, exp(t')."""
    return float(np.exp(jax.device_get(self._params["t"])[0]))

  @property
  def bias(self) -> float:
    """The bias of the logits; 0 for a model without one."""
    return (
        float(jax.device_get(self._params["b"])[0])
        if ("b" in self._params)
        else 0.0
    )

  def encode_source(self, source) -> Float[np.ndarray, "N D"]:
    """Returns embeddings of a source's images in order, on every process.

    An image that several records share is encoded once.
    """
    if isinstance(source, Embeddings):
      return source.every()
    # Import Grain only for evaluations: encoding an image need not wait for it.
    from siglip_jax.data import pipeline

    once, rows = sources.distinct_images(source)
    embeddings = []
    batches = pipeline.eval_batches(
        once,
        self._image,
        batch_size=self._batch_size,
        process_index=self._mine,
        process_count=len(self._processes),
        **self._loader,
    )
    for batch in self._track(batches, -(-len(once) // self._batch_size)):
      z = self._fetch(
          self._encode_image(self._params, self._put(batch["image"]))
      )
      embeddings.append(z[self._fetch(self._put(batch["mask"]))])
    z = np.concatenate(embeddings)
    return z if rows is None else z[rows]

  def encode_images(
      self,
      images: Sequence | np.ndarray,
      load: Callable[[Any], np.ndarray] = np.asarray,
  ) -> Float[np.ndarray, "N D"]:
    """Returns embeddings of images.

    Args:
      images: anything that `load` turns into preprocessed images: uint8, or
        floats, which count as already scaled.
      load: function from one item of `images` to an array; called in threads,
        one batch ahead of the devices.
    """
    size = self._size(len(images))
    batches = prefetch.batches(load, images, size)
    return self._in_batches(self._encode_image, batches, len(images))

  def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Returns embeddings of strings."""
    assert self._text is not None, "this encoder takes only ids"
    rng = np.random.default_rng(0)
    ids = [self._text({"text": t}, rng)["text"] for t in texts]
    return self.encode_ids(np.stack(ids))

  def encode_ids(self, ids: Int[np.ndarray, "N L"]) -> Float[np.ndarray, "N D"]:
    """Returns embeddings of token ids."""
    size = self._size(len(ids))
    batches = (ids[i : i + size] for i in range(0, len(ids), size))
    return self._in_batches(self._encode_text, batches, len(ids))

  def _size(self, count: int) -> int:
    """Returns the smallest batch size that holds `count`, or the largest."""
    return next((s for s in self._sizes if s >= count), self._batch_size)

  def _in_batches(
      self, encode, batches: Iterable[np.ndarray], count: int
  ) -> Float[np.ndarray, "N D"]:
    """Encodes batches; fetches each only after the next one is dispatched."""
    size = self._size(count)
    embeddings, pending = [], None
    for batch in self._track(batches, -(-count // size)):
      z = encode(self._params, self._put(self._my_rows(batch, size)))
      if pending is not None:
        embeddings.append(self._fetch(pending))
      pending = z
    embeddings.append(self._fetch(pending))
    return np.concatenate(embeddings)[:count]

  def _my_rows(self, batch: np.ndarray, size: int) -> np.ndarray:
    """Returns this process's rows of a batch padded to `size`."""
    local = size // len(self._processes)
    if len(batch) < size:  # np.pad would also copy a full batch
      pad = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
      batch = np.pad(batch, pad)
    return batch[self._mine * local :][:local]

  def _put(self, local: np.ndarray) -> jax.Array:
    """Returns the global batch on the devices, made of every process's rows."""
    return jax.make_array_from_process_local_data(self._sharding, local)

  def _fetch(self, x) -> np.ndarray:
    """Returns a whole array, on every process."""
    if len(self._processes) > 1:
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(jax.device_get(x))


def batch_sizes(largest: int, devices: int) -> list[int]:
  """Returns batch sizes that divide over the devices, in ascending order.

  They are `largest`, rounded up, and its halves, down to one example per
  device.
  """
  sizes = [-(-largest // devices)]
  while sizes[0] > 1:
    sizes.insert(0, -(-sizes[0] // 2))
  return [s * devices for s in sizes]


def image_function(
    model: TwoTowers, value_range: tuple[float, float]
) -> Callable[[dict, jax.Array], jax.Array]:
  """Returns a function from parameters and images to embeddings.

  Images are uint8, which the function scales, or floats that are already
  scaled.
  """

  def encode(params, images):
    if images.dtype == np.uint8:
      images = two_towers.scale(images, value_range)
    return model.encode_image(params, images)

  return encode
