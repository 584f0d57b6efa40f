"""An image tower and a text tower that meet in one space."""

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
  """The model. Parameters are {"img": ..., "txt": ..., "t": (1,), "b": (1,)}.

  Attributes:
    image: keyword arguments of `vit.VIT`; `variant="B/16"` stands for sizes.
    text: keyword arguments of `text.TextTransformer`, likewise `variant="B"`.
    out_dim: width of both projections, or one each; None is no projection.
    temperature_init: exp(t) at the start.
    bias_init: b at the start, or None for a model without (softmax).
    dtype: of activations and matmuls; parameters are float32.
    scan: stack the blocks of both towers and scan over them.
    remat: "none", "full" or "dots": see `layers.Encoder`.
    attention: "auto", "xla" or "fused": see `layers`.
    embedded: images come as embeddings that this image tower made before
      (`embed.py`): it is not built, and parameters have no "img".
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
    """Parameters for images (h, w, 3) and texts of `text_len` tokens."""
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
    """What `init` makes, as shapes; needs no device."""
    return jax.eval_shape(
        lambda: self.init(jax.random.key(0), image_shape, text_len)
    )

  def init_image(self, key: Array, image_shape: tuple[int, ...]) -> dict:
    """The part of the parameters that `encode_image` uses, {"img": ...}."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return {"img": self._image_tower().init(key, images)["params"]}

  def encode_image(
      self, params: Mapping, images: Float[Array, "B H W 3"]
  ) -> Float[Array, "B D"]:
    """L2-normalised float32 embeddings of images in [-1, 1]."""
    return _normalise(
        self._image_tower().apply({"params": params["img"]}, images)
    )

  def encode_text(
      self, params: Mapping, text: Int[Array, "B L"]
  ) -> Float[Array, "B D"]:
    """L2-normalised float32 embeddings of token ids."""
    return _normalise(self._text_tower().apply({"params": params["txt"]}, text))

  @property
  def image_sizes(self) -> dict[str, Any]:
    """What decides the shapes and the arithmetic of the image tower."""
    tower = self._image_tower()
    names = "width depth mlp_dim num_heads patch pool_type posemb out_dim"
    return {name: getattr(tower, name) for name in names.split()}

  @property
  def image_dim(self) -> int:
    """D of the images' embeddings."""
    sizes = self.image_sizes
    return sizes["out_dim"] or sizes["width"]

  def _image_tower(self) -> vit.VIT:
    given: dict[str, Any] = dict(self.image)
    if "variant" in given:
      variant, _, patch = given.pop("variant").partition("/")
      if not patch.isdigit():
        raise UserError(
            "The image variant needs a patch size, as in 'B/16'; got"
            f" {self.image['variant']!r}."
        )
      given = vit.sizes(variant) | {"patch": int(patch)} | given
    return vit.VIT(**self._shared(0) | given)

  def _text_tower(self) -> text_lib.TextTransformer:
    given: dict[str, Any] = dict(self.text)
    if "variant" in given:
      given = vit.sizes(given.pop("variant")) | given
    return text_lib.TextTransformer(**self._shared(1) | given)

  def _shared(self, tower: int) -> dict[str, Any]:
    out = self.out_dim
    return dict(
        out_dim=out if isinstance(out, int) else out[tower],
        dtype=jnp.dtype(self.dtype),
        scan=self.scan,
        remat=self.remat,
        attention=self.attention,
    )


def _normalise(z) -> Float[Array, "B D"]:
  """Each row over its norm, in float32; the eps is big_vision's."""
  z = z.astype(jnp.float32)
  return z / (jnp.linalg.norm(z, axis=1, keepdims=True) + 1e-8)


def scale(
    images: UInt8[Array, "B H W 3"], value_range: tuple[float, float]
) -> Float[Array, "B H W 3"]:
  """Bytes to floats in `value_range`, on the device."""
  low, high = value_range
  return images.astype(jnp.float32) * ((high - low) / 255) + low
