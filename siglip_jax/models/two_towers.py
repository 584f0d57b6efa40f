"""The model: an image tower and a text tower with a shared embedding space."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import UInt8

from siglip_jax.errors import UserError
from siglip_jax.models import text as text_lib
from siglip_jax.models import vit


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowers:
  """A model with parameters {"img": ..., "txt": ..., "t": (1,), "b": (1,)}.

  Attributes:
    image: keyword arguments of `vit.VIT`; `variant="B/16"` sets the sizes.
    text: keyword arguments of `text.TextTransformer`; `variant="B"` sets the
      sizes.
    out_dim: width of both projections, or a pair (image, text) of widths, in
      which None means no projection.
    temperature_init: initial value of exp(t).
    bias_init: initial value of b, or None for a model without b (softmax).
    dtype: dtype of activations and matmuls; parameters are float32.
    scan: stack the parameters of both towers' blocks and scan over the blocks.
    remat: "none", "full" or "dots"; see `layers.Encoder`.
    attention: "auto", "xla" or "fused"; see
      `layers.MultiHeadDotProductAttention`.
    embedded: whether images come as embeddings that this image tower computed
      earlier (`siglip_jax.embed`). If so, the image tower is not built and the
      parameters have no "img".
  """

  image: Mapping[str, Any]
  text: Mapping[str, Any]
  out_dim: int | tuple[int | None, int | None] | list
  temperature_init: float = 10.0
  bias_init: float | None = -10.0
  dtype: str = "float32"
  scan: bool = False
  remat: str = "none"
  attention: str = "auto"
  embedded: bool = False

  def init(
      self, key: Array, image_shape: tuple[int, ...], text_len: int
  ) -> dict:
    """Returns parameters for images (h, w, 3) and `text_len` text tokens."""
    image_key, text_key = jax.random.split(key)
    text = jnp.zeros((1, text_len), jnp.int32)
    params = {} if self.embedded else self.init_image(image_key, image_shape)
    params |= {
        "txt": self._text_tower().init(text_key, text)["params"],
        "t": jnp.full((1,), jnp.log(self.temperature_init), jnp.float32),
    }
    if self.bias_init is not None:
      params["b"] = jnp.full((1,), self.bias_init, jnp.float32)
    return params

  def shapes(self, image_shape: tuple[int, ...], text_len: int) -> dict:
    """Returns the shapes of what `init` returns; needs no device."""
    return jax.eval_shape(
        lambda: self.init(jax.random.key(0), image_shape, text_len)
    )

  def init_image(self, key: Array, image_shape: tuple[int, ...]) -> dict:
    """Returns the parameters that `encode_image` uses, {"img": ...}."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return {"img": self._image_tower().init(key, images)["params"]}

  def encode_image(
      self, params: Mapping, images: Float[Array, "B H W 3"]
  ) -> Float[Array, "B D"]:
    """Returns L2-normalised float32 embeddings of images in [-1, 1]."""
    return _normalise(
        self._image_tower().apply({"params": params["img"]}, images)
    )

  def encode_text(
      self, params: Mapping, text: Int[Array, "B L"]
  ) -> Float[Array, "B D"]:
    """Returns L2-normalised float32 embeddings of token ids."""
    return _normalise(self._text_tower().apply({"params": params["txt"]}, text))

  @property
  def image_sizes(self) -> dict[str, Any]:
    """The settings that fix the image tower's shapes and arithmetic."""
    tower = self._image_tower()
    names = "width depth mlp_dim num_heads patch pool_type posemb out_dim"
    return {name: getattr(tower, name) for name in names.split()}

  @property
  def arithmetic(self) -> dict[str, dict[str, Any]]:
    """The settings that decide what both towers compute, but not how.

    Without the types, since a trained model may be used in another one.
    """
    towers = {"image": self._image_tower(), "text": self._text_tower()}
    how = "scan remat dtype attention parent name".split()
    return {
        tower: {
            f.name: getattr(module, f.name)
            for f in dataclasses.fields(module)
            if f.name not in how
        }
        for tower, module in towers.items()
    }

  @property
  def image_dim(self) -> int:
    """The width of an image embedding, D."""
    sizes = self.image_sizes
    return sizes["out_dim"] or sizes["width"]

  def _image_tower(self) -> vit.VIT:
    options: dict[str, Any] = dict(self.image)
    if "variant" in options:
      variant, _, patch = options.pop("variant").partition("/")
      if not patch.isdigit():
        raise UserError(
            "The image variant needs a patch size, as in 'B/16'; got"
            f" {self.image['variant']!r}."
        )
      options = vit.sizes(variant) | {"patch": int(patch)} | options
    return vit.VIT(**self._shared_options(0) | options)

  def _text_tower(self) -> text_lib.TextTransformer:
    options: dict[str, Any] = dict(self.text)
    if "variant" in options:
      options = vit.sizes(options.pop("variant")) | options
    return text_lib.TextTransformer(**self._shared_options(1) | options)

  def _shared_options(self, tower: int) -> dict[str, Any]:
    out = self.out_dim
    return dict(
        out_dim=out if isinstance(out, int) else out[tower],
        dtype=jnp.dtype(self.dtype),
        scan=self.scan,
        remat=self.remat,
        attention=self.attention,
    )


def _normalise(z) -> Float[Array, "B D"]:
  """Divides each row by its norm, in float32, with big_vision's eps."""
  z = z.astype(jnp.float32)
  return z / (jnp.linalg.norm(z, axis=1, keepdims=True) + 1e-8)


def scale(
    images: UInt8[Array, "B H W 3"], value_range: tuple[float, float]
) -> Float[Array, "B H W 3"]:
  """Scales bytes to floats in `value_range`, on the device."""
  low, high = value_range
  return images.astype(jnp.float32) * ((high - low) / 255) + low
